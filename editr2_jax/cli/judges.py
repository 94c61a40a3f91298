"""judges: time the judges of a config on made-up rollouts: seconds a step, how long the chips would wait, how many servers are needed."""

from __future__ import annotations

from editr2_jax.cli import common

_ALLOWED = 0.1  # of a step that may be spent waiting


def main(argv: list[str]) -> int:
    """`python -m editr2_jax judges --config=FILE.py[:VARIANT] [--rollouts=N] [--step_s=SECONDS] [--config.a.b=VALUE ...]`

    Asks the services that the config names, as a run would, about N rollouts of its sessions that edit nothing; nothing is loaded
    but what answers, nothing is kept. --step_s: of a training step without waiting, as `plan` predicts it or a run has measured it.
    """
    parser = common.Parser("judges", main.__doc__, config=True)
    parser.add_argument("--rollouts", type=int, default=16, metavar="N", help="how many (default: 16)")
    parser.add_argument("--step_s", type=float, default=0.0, metavar="SECONDS", help="of a training step; leave it out for the load alone")
    args = parser.parse(argv)
    if args.rollouts < 1 or args.step_s < 0:
        raise ValueError(f"--rollouts={args.rollouts} --step_s={args.step_s}: give at least one rollout, and no negative seconds.")
    from editr2_jax import judging
    from editr2_jax.rewards import load

    config = args.config
    for section in (config.rewards.vlm, config.rewards.detector_http, config.rewards.features_http):
        section.cache = ""  # an answer that is known takes no time
    with judging.suite(config, _no_model) as suite:
        sources = _sources(config, args.rollouts)
        measured = load.measure(suite, sources, turns=config.rollout.turns, rollouts=args.rollouts, seed=config.seed)
    print("\n".join(_told(config, measured, args.step_s)))
    return 0


def _sources(config, count: int) -> list:
    """(session, source picture) of some training sessions that are long enough."""
    from editr2_jax.data import session_source
    from editr2_jax.rewards.content_consistency import at_size
    from editr2_jax.tabletop import world

    turns, size = config.rollout.turns, tuple(config.tabletop.size)
    if not config.data.path:
        return [world.make_session("train", config.tabletop.seed, row, turns=turns, size=size)[:2] for row in range(count)]
    folder = session_source.SessionFolder(config.data.path, "train")
    rows = [row for row, session in enumerate(folder.sessions) if len(session.turns) >= turns][:count]
    if not rows:
        raise ValueError(f"no session of {config.data.path} has {turns} turns; set rollout.turns to what the data has.")
    return [(folder.sessions[row], at_size(folder.read(folder.sessions[row].image), size)) for row in rows]


def _no_model():
    raise ValueError("rewards.features='vit' looks through the checkpoint, which is not a judge; take 'cc' out of rewards.use here.")


def _told(config, measured, step_s: float) -> list[str]:
    from editr2_jax.rewards import load

    rollouts, passes = config.data.sessions * config.data.group, -(-config.data.sessions * config.data.group // config.step.rows)
    verdicts = sum(measured.statuses.values())
    lines = [
        f"{', '.join(config.rewards.use)} of {measured.rollouts} rollouts of {measured.turns} turns: {measured.seconds:.2f} s, "
        f"{config.rewards.workers} verdicts at a time; "
        + ", ".join(f"{count} of {verdicts} {status}" for status, count in measured.statuses.items())
    ]
    for service in sorted({name.partition("/")[0] for name in measured.counts}):
        count = lambda name: measured.counts.get(f"{service}/{name}", 0.0)  # noqa: E731, B023
        if not count("requests"):  # in this process
            lines.append(f"{service}: {count('cache_misses'):.0f} questions, {count('cache_hits'):.0f} more asked again and remembered")
            continue
        answers = max(count("answers"), 1.0)
        lines.append(
            f"{service}: {count('requests'):.0f} requests, {count('requests') / measured.seconds:.1f} a second, "
            f"{count('answer_seconds') / answers:.2f} s an answer, {count('retries'):.0f} tried again"
        )
    asked = f"a step ({rollouts} rollouts, {passes} pass{'es' if passes > 1 else ''}): {measured.a_rollout * rollouts:.1f} s of judging"
    if not step_s:
        return [*lines, f"{asked}; --step_s=SECONDS says whether that is fast enough"]
    need = load.need(measured, rollouts=rollouts, passes=passes, step_s=step_s, allowed=_ALLOWED)
    lines.append(
        f"{asked}, {need.last_turn:.1f} s of it after the last picture; "
        f"waiting would add at least {need.wait:.1f} s, or {need.share:.0%}, to a step of {step_s:g} s"
    )
    if need.factor <= 1:
        return [*lines, f"that is below {_ALLOWED:.0%}: they are enough"]
    more = f"rewards.workers={load.whole(need.factor, config.rewards.workers)}"
    if config.rewards.answerer == "vlm":
        more = f"{load.whole(need.factor, len(config.rewards.vlm.urls))} servers instead of {len(config.rewards.vlm.urls)}, and {more}"
    lines.append(
        f"for {_ALLOWED:.0%}, {need.factor:.1f} times as much: {more}; or fewer votes, shorter answers, smaller passes (step.rows)"
    )
    return lines
