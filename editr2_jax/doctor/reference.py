"""The frozen reference of the KL term: the policy without its adapter, whatever the adapter has learned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.subject import Subject

AWAY = 0.01  # spread of the numbers that move an adapter away from nothing
NOTHING = 0.01  # of the moved adapter's divergence: what a fresh adapter's may be


def reference(subject: Subject) -> Finding:
    """KL is 0 under an adapter that has learned nothing, and is not under one that was moved."""
    objective = subject.updater.objective
    if not objective.needs_reference:
        return finding.skipped("no term compares with a reference")
    if subject.config.train != "lora":
        return finding.skipped("full training keeps no reference")
    lesson = subject.lesson(image=True, text=True)
    terms = [name for name, term in (("image/kl", objective.image), ("intent/k3", objective.intent)) if term.weight and term.kl_weight]
    told = [subject.gradients(lesson, weights=subject.at(adapter))[1] for adapter in (fresh(subject), moved(subject))]
    rows, fail = [("divergence", "fresh adapter", "moved adapter")], []
    for name in terms:
        if name not in told[0]:
            continue  # a dialogue of one turn has no words
        still, away = (abs(metrics[name]) for metrics in told)
        rows.append((name, f"{still:.1e}", f"{away:.1e}"))
        if not away > 0:
            fail.append(f"{name} stays {away:.1e} when the adapter moves: the reference moves with it")
        elif not still <= NOTHING * away:
            fail.append(f"{name} is {still:.1e} under an adapter that has learned nothing: the reference is another model")
    if len(rows) == 1:
        return finding.skipped("the terms that compare with a reference tell no divergence")
    return finding.judged(
        "; ".join(f"{name} {still} fresh, {away} moved" for name, still, away in rows[1:]),
        fail=fail,
        advice="The reference must be the frozen weights in the graph without adapters (Network.reference), asked with the same contexts, "
        "times and guidance as the policy; with the adapter on, the KL term holds nothing back.",
        details=finding.table(rows),
    )


def fresh(subject: Subject) -> Any:
    """The adapter as if it had learned nothing: its second factor is 0."""
    return _by_name(subject.weights.trainable, lambda leaf, key: jnp.zeros_like(leaf))


def moved(subject: Subject) -> Any:
    """The adapter, pushed off its place."""
    return _by_name(subject.weights.trainable, lambda leaf, key: leaf + AWAY * jax.random.normal(key, leaf.shape, leaf.dtype))


def _by_name(adapter: Any, change) -> Any:
    """Changes the second factor of every adapted projection; `change` takes the leaf and a key of its own."""
    pairs, tree = jax.tree_util.tree_flatten_with_path(adapter)
    keys = jax.random.split(jax.random.key(0), len(pairs))
    second = lambda path: any(getattr(part, "key", None) == "lora_b" for part in path)  # noqa: E731
    return tree.unflatten([change(leaf, key) if second(path) else leaf for (path, leaf), key in zip(pairs, keys, strict=True)])
