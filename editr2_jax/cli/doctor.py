"""doctor: examine a run before step 0: ratios, samplers, rewards, masks, learning, arithmetic; a verdict per check and what to do."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax doctor --config=FILE.py[:VARIANT] [--workdir=RUN] [--only=CHECK,...] [--json=FILE] [--config.a.b=VALUE ...]`

    With --workdir the last checkpoint of that run is examined, by default under its own config. Exit status 1 where a check fails.
    """
    parser = common.Parser("doctor", main.__doc__)
    parser.takes_config = True
    parser.add_argument("--config", metavar="FILE.py[:VARIANT]", help="what to examine; by default the config of --workdir")
    parser.add_argument("--workdir", metavar="RUN", help="a run that has started, whose last checkpoint is examined; nothing is trained")
    parser.add_argument("--only", default="", metavar="CHECK,...", help="some of the checks")
    parser.add_argument("--json", metavar="FILE", help="also write the findings there")
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    if args.config is None and args.workdir is None:
        raise ValueError("doctor wants --config=FILE.py (an untrained model), or --workdir=RUN (the last checkpoint of a run), or both.")
    out = Path(args.json).expanduser() if args.json else None
    if out and not out.parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {out.parent}; make it first.")
    run = Path(args.workdir).expanduser() if args.workdir else None
    if run and args.config and not (run / "config.json").exists():
        raise ValueError(
            f"--workdir={args.workdir}: no run has started there (it has no config.json); leave it out for an untrained model."
        )
    config = common.load_config(args.config, overrides) if args.config else common.saved_config(run)
    for name, value in () if args.config else overrides:
        common.override(config, name, value)
    from editr2_jax import experiment
    from editr2_jax.doctor import text
    from editr2_jax.doctor.finding import Opinion
    from editr2_jax.runtime import workdir

    findings, only = [], [name for name in args.only.split(",") if name]
    for found in experiment.examine(config, run=run, only=only, say=lambda text: print(text, flush=True)):
        findings.append(found)
        print("\n".join(text.lines(found)), flush=True)
    print("\n".join(text.summary(findings)))
    if out:
        workdir.write_json(out, {"findings": text.plain(findings), "versions": workdir.versions()})
    return int(any(found.opinion is Opinion.FAIL for found in findings))
