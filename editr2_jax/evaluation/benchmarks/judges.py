"""Who judged, in a few words that two files can be compared by; and whether it is the one that the model was trained to please."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editr2_jax.rewards import questions
from editr2_jax.rewards.compat import prompts as compat
from editr2_jax.rewards.questions import Question

_FIELDS = {  # a filled-in form of each question, so that wordings can be compared whatever they were asked about
    "added": {"object": "{object}"},
    "replaced": {"old": "{old}", "new": "{new}"},
    "color": {"object": "{object}", "value": "{value}"},
    "material": {"object": "{object}", "value": "{value}"},
    "background": {"value": "{value}"},
    "read_text": {"carrier": "{carrier}"},
}


def identity(rewards: Mapping[str, Any]) -> dict[str, Any]:
    """The judge of a config's section `rewards`: what its answers depend on, and where it stands."""
    told = {
        name: rewards[name] for name in ("answerer", "detector", "features", "arithmetic") if name in rewards
    }  # an older run's may lack some
    if told.get("answerer") != "vlm":
        return told
    vlm = rewards["vlm"]
    deciding = ("model", "temperature", "votes", "language", "soft", "max_tokens", "long_side", "json_schema", "choices")
    return told | {name: vlm[name] for name in deciding if name in vlm} | {"urls": list(vlm.get("urls", ()))}


def prompts(rewards: Mapping[str, Any]) -> dict[str, str]:
    """Kind of question -> hash of its wording, with the version of all wordings under "version". Scores are comparable where they agree.

    Of the questions of every scoring; and those of trajectory grades and of a published arithmetic, where they are asked.
    """
    language = rewards["vlm"]["language"] if rewards["answerer"] == "vlm" else "en"
    found = {kind: Question(kind, fields, language=language).prompt_hash() for kind, fields in _FIELDS.items()}
    for subset in ("memory", "understanding"):
        fields = {"subset": subset, "instructions": ("{instruction}",), "formatted": ("{formatted}",), "task_types": ("{task_type}",)}
        found[f"prefix_{subset}"] = Question("prefix", fields, language=language).prompt_hash()
    if "trajectory_grade" in rewards["use"]:
        found["grades"] = questions.wording(("grades",), language)
    if rewards["arithmetic"] != "fixed":
        found |= {kind: questions.wording((kind,)) for kind in compat.TEXTS}
    return {"version": questions.PROMPT_VERSION, "language": language, **found}


def same(evaluation: Mapping[str, Any], training: Mapping[str, Any] | None) -> bool | None:
    """Whether the two identities are one judge: the same model, or one address. None where the training judge is not known.

    A model's name is the last part of what a server calls it: `Qwen/Qwen2.5-VL-7B` and `/models/Qwen2.5-VL-7B` are one.
    """
    training = training or {}
    kind = training.get("answerer") or ("vlm" if training.get("model") or training.get("urls") else None)
    if kind is None:
        return None
    if evaluation["answerer"] != kind:
        return False
    if evaluation["answerer"] != "vlm":
        return True
    shared = set(evaluation["urls"]) & set(training.get("urls") or ())
    return bool(shared) or _short(evaluation["model"]) == _short(training.get("model") or "")


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()


def warning(evaluation: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    """What to say where a model is scored by the judge that trained it; empty otherwise."""
    if not same(evaluation, training):
        return ""
    who = evaluation.get("model") or evaluation["answerer"]
    return (
        f"the judge of this evaluation, {who!r}, is the judge that the model was trained with: what it overlooks, training may have "
        "learned to exploit. Score the same pictures with a judge of another family as well."
    )
