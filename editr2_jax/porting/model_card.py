"""README.md of an exported folder: what it is, how it was made, what was measured, how to load it. It tells what it is given, no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from editr2_jax.models import lora
from editr2_jax.models.bagel.config import BagelConfig
from editr2_jax.porting import byte_ranges

NAME = "README.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card tells besides what the model itself tells; what is empty is left out."""

    title: str = ""
    base: str | None = None  # the checkpoint that training began with
    method: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # by dotted name
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def whole(card: Card, config: BagelConfig) -> str:
    """The card of all weights in the official layout."""
    decoder = config.decoder
    about = (
        f"All weights in the official layout: `ema.safetensors` (or its shards and index), `ae.safetensors`, and the configuration. "
        f"{decoder.layers} layers of width {decoder.width}, vocabulary {decoder.vocab}; adapters, if there were any, are folded in."
    )
    return _text(card, about, ["pipeline_tag: image-to-image"], [], "A BAGEL checkpoint", _LOAD_WHOLE)


def adapter(card: Card, model: nnx.Module) -> str:
    """The card of the adapter that a model wears."""
    worn = [(path, linear) for path, linear in lora.linears(model) if linear.lora_a is not None]
    sizes = sorted({(linear.lora_a.shape[-1], linear.lora_scale * linear.lora_a.shape[-1]) for _, linear in worn})
    told = ", ".join(f"rank {rank}, alpha {alpha:g}" for rank, alpha in sizes)
    where = ", ".join(f"`{path.removeprefix('decoder.layers.')}`" for path, _ in worn)
    about = f"LoRA ({told}) on {where} of every layer; `adapter_config.json` holds their names in the official model."
    return _text(card, about, ["library_name: peft"], ["- lora"], "A LoRA adapter for BAGEL", _LOAD_ADAPTER)


def write(folder: Any, text: str) -> None:
    """Writes a card into an exported folder."""
    (byte_ranges.place(folder) / NAME).write_text(text, encoding="utf-8")


def _text(card: Card, about: str, kind: list[str], tags: list[str], title: str, loading: str) -> str:
    base = [f"base_model: {card.base}"] if card.base else []
    parts = ["\n".join(["---", *kind, *base, "tags:", "- image-editing", "- bagel", *tags, "---"]), f"# {card.title or title}"]
    parts += [f"Base: `{card.base}`."] if card.base else []
    parts += [card.method] if card.method else []
    parts.append(about)
    parts += [f"## Settings\n\n{_table('setting', card.settings)}"] if card.settings else []
    parts += [f"## Measured\n\n{_table('quantity', card.metrics)}"] if card.metrics else []
    return "\n\n".join([*parts, loading]) + "\n"


def _table(name: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {key} | {value:g} |" if isinstance(value, float) else f"| {key} | {value} |" for key, value in values.items()]
    return "\n".join([f"| {name} | value |", "|---|---|", *rows])


_LOAD_ADAPTER = """## Loading

In PyTorch, onto a module tree whose root has `language_model` as the official model's has:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(model, "THIS_FOLDER")
```

In editr2_jax: `editr2_jax.porting.adapter.load(model, "THIS_FOLDER")`."""

_LOAD_WHOLE = """## Loading

The folder takes the place of the released one in the official inference code. In editr2_jax give it as `--config.model.checkpoint`, or
`editr2_jax.porting.bagel_weights.load_folder("THIS_FOLDER")`."""
