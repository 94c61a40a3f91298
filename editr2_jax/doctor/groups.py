"""Groups: who belongs together, who starts from where, and whether what they earned tells them apart.

Letters: P sessions, G group, B = P * G rows, T turns, W stochastic steps.
"""

from __future__ import annotations

import itertools

import numpy as np

from editr2_jax.doctor import finding
from editr2_jax.doctor.finding import Finding
from editr2_jax.doctor.samplers import apart, rounding
from editr2_jax.doctor.subject import Subject

SAME = 1e-6  # rewards as near as this are equal


def groups(subject: Subject) -> Finding:
    """Members lie side by side, share session, picture and (as configured) initial noise, and draw different noise after it."""
    samples, fail = subject.rollout.samples, []
    runs = [(number, list(members)) for number, members in itertools.groupby(samples, key=lambda sample: sample.group)]
    if len({number for number, _ in runs}) < len(runs):
        fail.append("the members of a group do not lie side by side")
    for number, members in runs:
        if [sample.member for sample in members] != list(range(len(members))):
            fail.append(f"group {number} has the members {[sample.member for sample in members]}, not 0 to {len(members) - 1}")
        if any(s.session.id != members[0].session.id or not np.array_equal(s.picture, members[0].picture) for s in members):
            fail.append(f"group {number} mixes sessions or pictures")
    sizes = sorted({len(members) for _, members in runs})
    if len(sizes) > 1:
        fail.append(f"groups have {' and '.join(map(str, sizes))} members")
    fail += [] if fail or not subject.played.step.shape[2] else _starts(subject)
    return finding.judged(
        f"{len(runs)} groups of {sizes[0]}; initial noise is shared by {_SHARERS[subject.player.config.noise]}",
        fail=fail,
        advice="Let the data stream hand out each session G times in a row, and cut the keys of initial noise by group, those of the "
        "steps by member: a baseline over others' sessions, or over copies of one rollout, says nothing.",
    )


_SHARERS = {"iteration": "a group", "dialogue": "a group, for the whole run", "member": "nobody"}


def _starts(subject: Subject) -> list[str]:
    """Turn 0 before its first stochastic step: one context, so what differs there is the initial noise. And after it: the steps' noise."""
    played, g, shared = subject.played, subject.group, subject.player.config.noise != "member"
    x, x_next, step = (np.asarray(array)[:, 0, 0] for array in (played.x, played.x_next, played.step))
    fail = []
    for first in range(0, len(x), g):
        others = [i for i in range(first + 1, first + g) if step[i] == step[first]]
        if shared and any(apart(x[i], x[first]) > rounding(subject) for i in others):
            fail.append("members of a group start from different noise, although rollout.noise shares it")
        if not shared and any(apart(x[i], x[first]) < rounding(subject) for i in others):
            fail.append("members of a group start from the same noise, although rollout.noise=member")
        if any(np.array_equal(x_next[i], x_next[first]) for i in others):
            fail.append("members of a group draw the same noise in their stochastic steps, so they are copies")
    if len(x) > g and step[0] == step[g] and apart(x[g], x[0]) < rounding(subject):
        fail.append("two groups start from the same noise")
    return list(dict.fromkeys(fail))


def credit(subject: Subject) -> Finding:
    """Rewards have some spread inside groups, and advantages follow them."""
    made, metrics = subject.credit
    reward, known = made.reward, ~np.isnan(made.reward)
    g, warn, fail, rows = subject.group, [], [], [("turn", "mean reward", "spread in a group", "pictures that learn", "words that learn")]
    for t in range(reward.shape[1]):
        pools = [reward[i : i + g, t][known[i : i + g, t]] for i in range(0, len(reward), g)]
        spread = np.mean([np.ptp(pool) if pool.size else 0.0 for pool in pools])
        mean = f"{np.nanmean(reward[:, t]):.3f}" if known[:, t].any() else "-"
        rows.append((str(t), mean, f"{spread:.3f}", *(f"{mask[:, t].mean():.0%}" for mask in (made.image_mask, made.text_mask))))
    advantages = {name: getattr(made, name).dtype for name in ("image_advantage", "text_advantage")}
    fail += [f"{name} is {dtype}, not float32" for name, dtype in advantages.items() if dtype.itemsize < 4]
    if not known.any():
        fail.append("no turn of the small batch has a reward")
    elif np.ptp(reward[known]) <= SAME:
        fail.append(f"every turn of the small batch earns {reward[known][0]:.3g}")
    elif metrics["advantage/zero_variance_share"] >= 1:
        warn.append("no pool of rewards has any spread, so every advantage of the small batch is 0")
    settings = subject.recipe.advantage  # an advantage of another number than the turn's reward, or of the last turn's, may go against it
    same = settings.transform == "none" and settings.aggregate in ("mean", "sum")
    agreement = follows(reward, made.image_advantage, made.image_mask, g) if same else None
    if agreement is not None and agreement < 0:
        fail.append(f"advantages go against the rewards inside groups (correlation {agreement:.2f})")
    told = "-" if agreement is None else f"{agreement:.2f}"
    return finding.judged(
        f"pools without spread {metrics['advantage/zero_variance_share']:.0%}; correlation of advantage and reward inside groups {told}",
        fail=fail,
        warn=warn,
        advice="Without spread nothing is learned: look at the rewards' pairs above, sample more members or sessions of middling "
        "difficulty, or raise rollout.kernel.noise_level and rollout.temperature; if the sign is wrong, look at how rewards are centred.",
        details=finding.table(rows),
    )


def follows(reward: np.ndarray, advantage: np.ndarray, learns: np.ndarray, group: int) -> float | None:
    """Correlation of what a turn earned above its group's mean with its advantage; None where either has no spread."""
    above, worth = [], []
    for i in range(0, len(reward), group):
        for t in range(reward.shape[1]):
            pool = learns[i : i + group, t] & ~np.isnan(reward[i : i + group, t])
            if pool.sum() > 1:
                earned, given = reward[i : i + group, t][pool], advantage[i : i + group, t][pool]
                above, worth = [*above, *(earned - earned.mean())], [*worth, *(given - given.mean())]
    if np.std(above) < SAME or np.std(worth) < SAME:
        return None
    return float(np.corrcoef(above, worth)[0, 1])
