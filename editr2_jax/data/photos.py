"""A small session folder over real photographs: those that scikit-image carries inside its package, each with three plain edits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from PIL import Image

from editr2_jax.data import images, session_record, session_source
from editr2_jax.records import Session, Turn


@dataclasses.dataclass(frozen=True)
class _Edit:
    """One turn, and what it does to the pool of objects."""

    task_type: str
    formatted: str
    gone: str = ""  # the name that leaves
    new: str = ""  # the name that comes
    touched: tuple[str, ...] = ()  # names that stay, but not unchanged


_PHOTOS: dict[str, tuple[tuple[str, ...], tuple[_Edit, _Edit, _Edit]]] = {  # file -> objects, edits
    "astronaut.png": (
        ("orange suit", "helmet", "flag", "shuttle"),
        (
            _Edit("color_alter", "Change the color of [orange suit] to [blue]", gone="orange suit", new="blue suit"),
            _Edit("subject_remove", "Remove [flag]", gone="flag"),
            _Edit("subject_add", "Add [potted plant] on the [left] of [helmet]", new="potted plant"),
        ),
    ),
    "camera.png": (
        ("black coat", "camera", "tripod"),
        (
            _Edit("color_alter", "Change the color of [black coat] to [yellow]", gone="black coat", new="yellow coat"),
            _Edit("subject_add", "Add [umbrella] on the [right] of [tripod]", new="umbrella"),
            _Edit("subject_remove", "Remove [tripod]", gone="tripod"),
        ),
    ),
    "chelsea.png": (
        ("cat", "blanket"),
        (
            _Edit("subject_add", "Add [butterfly] on the [right] of [cat]", new="butterfly"),
            _Edit("color_alter", "Change the color of [butterfly] to [blue]", gone="butterfly", new="blue butterfly"),
            _Edit("background_change", "Change the background to [garden]"),
        ),
    ),
    "coffee.png": (
        ("white cup", "red saucer", "spoon", "wooden table"),
        (
            _Edit("color_alter", "Change the color of [red saucer] to [green]", gone="red saucer", new="green saucer"),
            _Edit("position_change", "Change the position of [spoon] to [left] of [white cup]", touched=("spoon", "white cup")),
            _Edit("subject_replace", "Replace [spoon] with [biscuit]", gone="spoon", new="biscuit"),
        ),
    ),
    "coins.png": (
        ("coin", "cloth"),
        (
            _Edit("count_change", "Change the count of [coin] to [5]", touched=("coin",)),
            _Edit("material_alter", "Change the material of [coin] to [wooden]", gone="coin", new="wooden coin"),
            _Edit("background_change", "Change the background to [grass]"),
        ),
    ),
    "moon.png": (
        ("crater",),
        (
            _Edit("subject_add", "Add [flag] on the [right] of [crater]", new="flag"),
            _Edit("subject_replace", "Replace [flag] with [rover]", gone="flag", new="rover"),
            _Edit("subject_remove", "Remove [rover]", gone="rover"),
        ),
    ),
    "motorcycle_left.png": (
        ("red motorcycle", "wooden bench", "shelf"),
        (
            _Edit("color_alter", "Change the color of [red motorcycle] to [blue]", gone="red motorcycle", new="blue motorcycle"),
            _Edit("material_alter", "Change the material of [wooden bench] to [metal]", gone="wooden bench", new="metal bench"),
            _Edit("subject_add", "Add [dog] on the [left] of [blue motorcycle]", new="dog"),
        ),
    ),
    "page.png": (
        ("page",),
        (
            _Edit("text_change", "Replace the text '[segmentation]' on [page] with '[painting]'", touched=("page",)),
            _Edit("color_alter", "Change the color of [page] to [pink]", gone="page", new="pink page"),
            _Edit("text_change", "Add text '[NEW]' on the image", new="NEW"),
        ),
    ),
    "rocket.jpg": (
        ("rocket", "tower"),
        (
            _Edit("color_alter", "Change the color of [rocket] to [red]", gone="rocket", new="red rocket"),
            _Edit("text_change", "Add text '[GO]' on the image", new="GO"),
            _Edit("background_change", "Change the background to [mountains]"),
        ),
    ),
}
_CROPS = {"camera.png": (80, 0, 400, 512)}  # left, top, right, bottom: one portrait among the landscapes


def write_folder(out: str | Path, split: str = "train") -> int:
    """Writes `out/SPLIT_metadata.jsonl` and the pictures as `out/images/*.png`; the number of sessions.

    Raises ValueError where scikit-image is not installed or lacks a photograph, and where the split is already there.
    """
    try:
        import skimage
    except ImportError as error:
        raise ValueError("The photographs come with scikit-image, which is not installed: pip install 'editr2_jax[photos]'.") from error
    session_record.check_split(split)
    carried = Path(skimage.__file__).parent / "data"
    folder = Path(out).absolute()
    metadata = folder / f"{split}_metadata.jsonl"
    if metadata.exists():
        raise ValueError(f"{metadata} is already there; give another --out or --split, or remove it.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (objects, edits) in _PHOTOS.items():
        picture = Image.fromarray(images.read_picture(carried / name)).crop(_CROPS.get(name))
        path = folder / "images" / f"{Path(name).stem}.png"
        picture.save(path)
        session = Session(id=f"{split}/{path.stem}", image=str(path), turns=_turns(objects, edits))
        lines.append(json.dumps(session_source.to_record(session, folder)) + "\n")
    metadata.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _turns(objects: tuple[str, ...], edits: tuple[_Edit, ...]) -> tuple[Turn, ...]:
    """Plain turns, with the object pools after each by the rules of the public data."""
    unchanged, available, known, kept, turns = list(objects), list(objects), list(objects), True, []
    for edit in edits:
        unchanged = [name for name in unchanged if name != edit.gone and name not in edit.touched]
        available = [name for name in available if name != edit.gone]
        known += [edit.new] if edit.new else []
        if edit.new and edit.task_type != "text_change":  # a text is no object that can be edited next
            available.append(edit.new)
        if edit.task_type == "background_change":
            kept = False
            available = [name for name in available if name in objects]
            unchanged = [name for name in unchanged if name in available]
        turns.append(
            Turn(
                instruction=edit.formatted.replace("[", "").replace("]", ""),
                formatted_instruction=edit.formatted,
                task_type=edit.task_type,
                bg_consistency=kept,
                unchanged_objects=tuple(unchanged),
                available_objects=tuple(available),
                all_objects=tuple(known),
            )
        )
    return tuple(turns)
