"""evaluate: play held-out sessions without noise, score them, write tables with confidence intervals."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax evaluate --workdir=DIR [--config=FILE.py --run=DIR] [--config.a.b=VALUE ...]`

    With --run alone the run's own config and last checkpoint are used; --config without --run evaluates an untrained checkpoint.
    """
    parser = common.Parser("evaluate", main.__doc__, workdir=True)
    parser.takes_config = True
    parser.add_argument("--config", metavar="FILE.py[:VARIANT]", help="what to play; by default the config of --run")
    parser.add_argument("--run", metavar="DIR", help="the workdir of a training run, whose last checkpoint is played")
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    if (args.config is None) and (args.run is None):
        raise ValueError("evaluate wants --config=FILE.py (a checkpoint as it is) or --run=DIR (the last checkpoint of a run), or both.")
    config = common.load_config(args.config, overrides) if args.config else common.saved_config(args.run)
    for name, value in () if args.config else overrides:
        common.override(config, name, value)
    from editr2_jax import experiment
    from editr2_jax.evaluation import tables

    run = Path(args.run).expanduser() if args.run else None
    workdir = common.claim_workdir(args.workdir, config, may_change=experiment.RESUMABLE)
    summary = experiment.evaluate(config, workdir, checkpoints_of=run, say=lambda text: print(text, flush=True))
    if summary is None:
        print(f"{workdir}: this step has been evaluated before; its tables stand in eval/ and report/index.html.")
        return 0
    for name, table in summary["tables"].items():
        print(tables.markdown(table, title=name))
    return 0
