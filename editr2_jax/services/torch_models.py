"""PyTorch models of transformers for those that look at pictures: loaded from a local folder, accounted for, in eval mode.

torch is loaded when a model is, never by an import of this package: it comes with the extra `judges`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from editr2_jax.runtime import places
from editr2_jax.services import dinov3_pictures

# Tables that older versions of transformers wrote beside the weights and newer ones make themselves; nothing else may be left over.
_TABLES = ("position_ids", "relative_position_index", "inv_freq", "special_tokens")


def libraries() -> tuple[Any, Any]:
    """The modules torch and transformers. Raises ValueError that names the extra where they are not installed."""
    try:
        return importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"This needs PyTorch and transformers ({error}): pip install 'editr2_jax[judges]'; rewards.features='dinov3' runs without."
        ) from error


def load(kind: str, folder: str | Path, *, model_type: str, device: str) -> Any:
    """A float32 model of transformers' class `kind` in eval mode, without gradients, on a device; nothing is downloaded.

    From then on cuDNN, in this process, neither rounds float32 to TF32 nor chooses algorithms by the clock: answers repeat, and are near
    those of a CPU.

    Raises FileNotFoundError or ValueError naming the folder when it is absent, of another model type, or its weights leave a parameter
    unfilled, unused or misshapen (transformers would draw it at random and go on).
    """
    torch, transformers = libraries()
    if not places.is_local(places.place(folder)):
        raise ValueError(f"{folder}: PyTorch models load from a local disk; copy the folder there.")
    folder = Path(folder).expanduser()
    found = dinov3_pictures.read_json(folder / "config.json").get("model_type")
    if found != model_type:
        raise ValueError(f"{folder}: this is a checkpoint of model_type {found!r}; {model_type!r} is wanted here.")
    device = _device(torch, device)
    told = {"local_files_only": True, "output_loading_info": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        model, account = getattr(transformers, kind).from_pretrained(folder, **told)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: transformers cannot load this {model_type} checkpoint ({error}).") from error
    wrong = {what: sorted(map(str, account[f"{what}_keys"])) for what in ("missing", "unexpected", "mismatched")}
    wrong["unexpected"] = [name for name in wrong["unexpected"] if not name.endswith(_TABLES)]
    if any(wrong.values()):
        listed = "".join(f"\n  {what}: {name}" for what, names in wrong.items() for name in names)
        raise ValueError(f"{folder}: the weights do not fit config.json; take both from one checkpoint.{listed}")
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
    return model.eval().requires_grad_(False).to(device)


def _device(torch: Any, name: str) -> Any:
    """A device that is there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(
            f"device {name!r}: PyTorch cannot use it ({str(error).splitlines()[0]}); choose cpu, or cuda:0 on a GPU."
        ) from error
    return device
