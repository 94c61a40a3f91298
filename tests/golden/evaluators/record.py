"""Records what the published evaluators say of made-up turns: python tests/golden/evaluators/record.py EDIT_R2 EDIVAL, two checkouts.

Their functions run as they are, out of their own files (rewards/reward_server/edival_reward_server.py of github.com/yuxiaooye/Edit-R2 and
detector/*.py of github.com/TianyuCodings/EdiVal, in mid 2026); what stands around them, detector, model and DINOv3, is scripted. Nothing
of theirs is in this repository. Needs PyTorch and Pillow. Writes cases.json beside this file.
"""

import ast
import collections
import contextlib
import io
import json
import os
import random
import re
import sys
import traceback
import types
import typing
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2])]

import scripted  # noqa: E402

NAMES = ("red boxes", "blue ball", "red hat", "glass", "small bird")
HIDDEN = ("boxes", "ball", "hat", "bird", "red box", "glas")  # other words that the rules look for
PLACES = ("left", "right", "above", "below")


def load(file: Path, wanted, around: dict) -> dict:
    """Functions and constants of a file, run in a room of their own."""
    keep = [
        node
        for node in ast.parse(file.read_text()).body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) and target.id.startswith("VLM_") for target in node.targets))
    ]
    common = {name: getattr(typing, name) for name in ("Any", "Dict", "List", "Tuple", "Optional")}
    room = common | {"np": np, "re": re, "os": os, "Image": Image, "ImageDraw": ImageDraw, "torch": torch, "traceback": traceback} | around
    exec(compile(ast.Module(body=keep, type_ignores=[]), str(file), "exec"), room)
    return room


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


class Stage:
    """What is scripted at the moment."""

    case: dict = {}

    def found(self, image, name):
        cleaned = name.strip().lower().replace(".", "")
        return [(tuple(box), score) for box, score in self.case["boxes"][scripted.number_of(np.asarray(image))].get(cleaned, [])]

    def one(self, image, name, threshold=0.3, return_all=False, delete_large_box=False):
        kept = [(box, score) for box, score in self.found(image, name) if score > threshold]
        if delete_large_box:
            kept = [(box, score) for box, score in kept if not (abs(box[0] - box[2]) > 0.98 and abs(box[1] - box[3]) > 0.98)]
        if kept and not return_all:
            kept = [max(kept, key=lambda pair: pair[1])]
        centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box, _ in kept]
        return {
            "label": [name] * len(kept),
            "score": [score for _, score in kept],
            "box": [list(box) for box, _ in kept],
            "normalized_center": [list(centre) for centre in centres],
            "center": [[int(x * image.size[0]), int(y * image.size[1])] for x, y in centres],
        }

    def many(self, image, names, threshold=0.35):
        told = [(box, score) for name in names for box, score in self.found(image, name) if score > threshold]
        return {"label": [""] * len(told), "score": [s for _, s in told], "box": [list(b) for b, _ in told], "center": []}

    def says(self, *images_and_prompt):
        *images, prompt = images_and_prompt
        if "What text" in prompt:
            return scripted.read(self.case, np.asarray(images[0])).lower()
        return self.case["answer"].lower()


def following(edit_r2: Path, edival: Path):
    """Their IF of a case."""
    stage = Stage()
    theirs = load(
        edit_r2 / "rewards/reward_server/edival_reward_server.py",
        {"_calculate_iou", "_count_object", "parse_instruction", "evaluate_single"},
        {"call_groundingdino": stage.one, "call_vlm": stage.says, "call_vlm_2image": stage.says},
    )
    file = edival / "detector/instruction_detector.py"
    scripts = {
        "_detect_single_object_from_img": lambda model, image, name, **more: stage.one(image, name, **more),
        "_query_vlm": lambda model, *rest: stage.says(*rest),
        "_query_vlm_2_image": lambda model, *rest: stage.says(*rest),
        "_query_vlm_for_object_name": lambda model, name: scripted.noun(name),
    }
    others = load(file, functions_of(file) - set(scripts), scripts)

    def score(case):
        stage.case = case
        before, after = (Image.fromarray(scripted.flat(number)) for number in (0, 1))
        natural, formatted, kind = case["natural"], case["formatted"], case["task_type"]
        one, _ = theirs["evaluate_single"](before, after, natural, formatted, kind)
        other = others["intruction_following_detection"](formatted, natural, kind, before, after, None, object())
        return [float(one), float(other)]

    return score


def consistency(edit_r2: Path, edival: Path):
    """Their CC of a case: Edit-R2's score; EdiVal's object and background part, null where undefined."""
    stage, tensors = Stage(), types.SimpleNamespace(ToTensor=lambda: lambda image: _tensor(image))
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision.transforms"].ToTensor = tensors.ToTensor
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    around = {"F": torch.nn.functional, "transforms": tensors}
    file = edit_r2 / "rewards/reward_server/edival_reward_server.py"
    theirs = load(
        file,
        {name for name in functions_of(file) if "dinov3" in name or "consistency" in name or "background" in name}
        | {"_l2norm", "_masked_global_cosine", "_crop_object_from_image"},
        around | {"call_groundingdino_multi": stage.many, "DINOV3_BUNDLE": _bundle(256), "app": types.SimpleNamespace(route=_route)},
    )
    file = edival / "detector/consistency_detector.py"
    scripts = {
        "_detect_multiple_objects_from_img": lambda model, image, names: stage.many(image, names),
        "load_resize_image": lambda image: image if image.size == (512, 512) else image.resize((512, 512), Image.Resampling.LANCZOS),
    }
    others = load(file, functions_of(file) - set(scripts), around | scripts)

    def score(case):
        stage.case = case
        before, after = (Image.fromarray(picture) for picture in scripted.pictures(case))
        names = case["unchanged"], case["all"]
        parts, rest = theirs["evaluate_consistency_single"](before, after, *names)
        told = [parts["object_dinov3_consistency_mean"], rest["bg_dinov3_masked_similarity"] if case["bg"] else None]
        told = [value for value in told if value is not None]
        one = sum(told) / len(told) if told else 0.5  # _safe_cc of flow_grpo/edival_client.py
        parts, rest = others["evaluate_consistency"](before, after, *names, grounding_model=0, dinov3_model=_bundle(224))
        other = [parts["object_dinov3_consistency_mean"], rest.get("bg_dinov3_masked_similarity")] if case["bg"] else [None, None]
        return [one, *other]

    return score


def _tensor(image):
    pixels = np.asarray(image, np.float32) / 255
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def _route(*words, **more):
    return lambda function: function


class _Model(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        self.side, self.here = side, torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values):
        pictures = [picture.permute(1, 2, 0).to(torch.uint8).numpy() for picture in pixel_values]
        return types.SimpleNamespace(last_hidden_state=torch.from_numpy(scripted.Tokens(self.side).tokens(pictures).tokens))


def _bundle(side):
    def processor(images, return_tensors):
        made = [scripted.at_side(np.asarray(image), side) for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2).copy())}

    return _Model(side), processor


def draw_box(rng):
    if rng.random() < 0.06:
        return [0.0, 0.0, 1.0, rng.choice([1.0, 0.97, 0.89])]
    width, height = rng.choice([0.1, 0.2, 0.3, 0.6]), rng.choice([0.1, 0.2, 0.3, 0.6])
    x, y = rng.choice([0, 0.1, 0.3, 0.31, 0.33, 0.5, rng.random()]) * (1 - width), rng.choice([0, 0.3, 0.5, rng.random()]) * (1 - height)
    return [round(value, 4) for value in (x, y, x + width, y + height)]


def draw_boxes(rng, names, scores, like=None):
    found = {}
    for name in names:
        boxes = [[draw_box(rng), rng.choice(scores)] for _ in range(rng.choice([0, 1, 1, 2]))]
        if like and rng.random() < 0.5:
            boxes = like.get(name, [])
        if boxes:
            found[name] = boxes
    return found


def draw_edit(rng):
    kind = rng.choice(
        ["subject_add", "subject_remove", "subject_replace", "text_change", "position_change", "count_change", "background_change"]
    )
    a, b, place = rng.choice(NAMES), rng.choice(NAMES), rng.choice(PLACES)
    formatted = {
        "subject_add": rng.choice([f"Add [{a}] on the [{place}] of [{b}]", f"Add [{a}]"]),
        "subject_remove": f"Remove [{a}]",
        "subject_replace": f"Replace [{a}] with [{b}]",
        "text_change": rng.choice([f"Replace the text '[K]' on [{a}] with '[{rng.choice(['L', ''])}]'", "Add text '[L]' on the image"]),
        "position_change": f"Change the position of [{a}] to [{place}] of [{b}]",
        "count_change": f"Change the count of [{a}] to [{rng.choice([0, 1, 2])}]",
        "background_change": "Change the background to [snow]",
    }[kind]
    natural = formatted.replace("[", "").replace("]", "")
    if kind == "background_change":
        natural = rng.choice([natural, formatted, f"{natural}, remain the {a} unchanged", f"{natural}, remain the {a}, {b} unchanged"])
    if rng.random() < 0.05:
        formatted = f"Well: {formatted}."
    return {"task_type": kind, "formatted": formatted, "natural": natural}


def draw_following(rng):
    before = draw_boxes(rng, NAMES + HIDDEN, [0.26, 0.31, 0.36, 0.41, 0.9])
    boxes = [before, draw_boxes(rng, NAMES + HIDDEN, [0.26, 0.31, 0.36, 0.41, 0.9], before)]
    answer = rng.choice(["yes", "yes", "Yes.", "NO", "the eyes are blue", "maybe"])
    return draw_edit(rng) | {"boxes": boxes, "answer": answer, "text": rng.choice([["L", "none"], ["none", "lamp"], ["", "l"]])}


def draw_consistency(rng):
    names = ("box", "ball", "cat")
    pick = lambda chance: [name for name in names if rng.random() < chance]  # noqa: E731
    return {
        "seed": rng.randrange(1000),
        "size": rng.choice([[512, 512], [200, 300], [128, 96]]),
        "resized": rng.random() < 0.2,
        "boxes": [draw_boxes(rng, names, [0.3, 0.4, 0.9]) for _ in range(2)],
        "unchanged": pick(0.6),
        "all": pick(0.7),
        "bg": rng.random() < 0.8,
    }


def main(edit_r2: str, edival: str) -> None:
    rng, told = random.Random(0), {"if": [], "cc": []}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        score, wanted = following(Path(edit_r2), Path(edival)), collections.Counter()
        while len(told["if"]) < 160:
            case = draw_following(rng)
            values = score(case)
            if wanted[case["task_type"], *values] < 9:  # not the usual 0 alone
                wanted[case["task_type"], *values] += 1
                told["if"].append(case | {"wanted": values})
        score = consistency(Path(edit_r2), Path(edival))
        for _ in range(40):
            case = draw_consistency(rng)
            told["cc"].append(case | {"wanted": score(case)})
    (HERE / "cases.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
