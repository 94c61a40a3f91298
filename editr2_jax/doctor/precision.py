"""What a rollout stores: numbers of full precision, steps of the grid, and draws that are what their transition says.

Letters: B rows, T turns, W stochastic steps, L latent tokens, C numbers in a token, D = L C.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.samplers import apart, rounding
from editr2_jax.doctor.subject import Subject, flat

STORED = ("x", "x_next", "clean", "image_log_prob", "intent_log_prob")
DEVIATIONS = 6  # standard deviations that are still chance


def precision(subject: Subject) -> Finding:
    """Stored numbers, times and adapters are float32 or better, and look it."""
    played, fail = subject.played, []
    for name in STORED:
        array = np.asarray(getattr(played, name))
        if array.dtype.itemsize < 4:
            fail.append(f"{name} is stored as {array.dtype}")
        elif name != "intent_log_prob" and _looks_rounded(array):
            fail.append(f"{name} holds {array.dtype} but was rounded to bfloat16 on its way")
        if not np.isfinite(array.astype(np.float32)).all():
            fail.append(f"{name} holds numbers that are not finite")
    grid = subject.player.config.policy.flow.grid(played.clean.shape[2])
    if grid.dtype.itemsize < 4:
        fail.append(f"times are {grid.dtype}")
    narrow = sorted({str(leaf.dtype) for leaf in flat(subject.weights.trainable).values() if leaf.dtype.itemsize < 4})
    return finding.judged(
        f"{', '.join(STORED)} and times; the model computes in {subject.config.model.dtype}",
        fail=fail,
        warn=f"what learns is stored as {', '.join(narrow)}: small updates are lost in rounding" if narrow else (),
        advice="Keep the flow's arithmetic, its latents and log-probabilities in float32: cast the velocity to float32 before a step is "
        "drawn or scored, and store what was scored.",
    )


def window(subject: Subject) -> Finding:
    """(x' - mean) / std of every stochastic step has mean 0 and variance 1 under the grid's own times, also at the window's end."""
    played, rules = subject.played, subject.player.window
    step, numbers = np.asarray(played.step), int(np.prod(played.x.shape[3:]))  # [B, T, W], D
    if not step.shape[2]:
        return finding.skipped("no step is stochastic")
    fail, places = [], [(f"step {s}", step == s) for s in sorted(set(step.reshape(-1).tolist()))]
    places.append(("a window's last step", np.broadcast_to(np.arange(step.shape[2]) == step.shape[2] - 1, step.shape)))
    if step.min() < rules.first or step.max() >= rules.last or (np.diff(step, axis=2) <= 0).any():
        fail.append(f"steps {step.min()} to {step.max()} were drawn, not some of {rules.first} to {rules.last - 1} in their order")
    rows = [("noise of", "draws", "mean", "variance")]
    for name, where in places:
        n = numbers * where.sum()
        mean, variance = subject.walked.mean[where].mean(), subject.walked.square[where].mean()
        near, around = DEVIATIONS * n**-0.5, DEVIATIONS * (2 / n) ** 0.5
        rows.append((name, str(where.sum()), f"{mean:+.4f} (0 +- {near:.4f})", f"{variance:.4f} (1 +- {around:.4f})"))
        if not (abs(mean) <= near and abs(variance - 1) <= around):
            fail.append(f"the noise of {name} has mean {mean:.2g} and variance {variance:.3g}")
    gap = apart(subject.walked.arrived[:, :, 1:], np.asarray(played.x)[:, :, 1:]) if step.shape[2] > 1 else 0.0
    if not gap <= rounding(subject):
        fail.append(f"a stochastic step does not start where the one before it led (gap {gap:.1e})")
    return finding.judged(
        f"noise of {step.size} steps, {numbers} numbers each, kernel {subject.player.config.policy.flow.kernel.kind}",
        fail=fail,
        advice="The step that was drawn is not the grid's: give sampler and loss the grid's own t and t', also at the window's last step "
        "(t' is the grid's next time, not 0), and one kernel and noise level.",
        details=finding.table(rows),
    )


def _looks_rounded(array: np.ndarray) -> bool:
    """Whether no number has more digits than bfloat16, which does not happen by chance."""
    return array.size > 64 and np.any(array) and np.array_equal(array, np.asarray(jnp.asarray(array).astype(jnp.bfloat16), array.dtype))
