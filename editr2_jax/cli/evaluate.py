"""evaluate: play held-out sessions without noise, score them, write tables with confidence intervals."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax evaluate --workdir=DIR [--config=FILE.py --run=DIR --at=STEP] [--config.a.b=VALUE ...]`

    With --run its last checkpoint is played, or the one that --at names, by default under the run's own config; --config without --run
    evaluates an untrained checkpoint. Pictures are kept in DIR/eval/STEP/pictures, which `score` reads.
    """
    parser = common.Parser("evaluate", main.__doc__, workdir=True)
    parser.takes_config = True
    parser.add_argument("--config", metavar="FILE.py[:VARIANT]", help="what to play; by default the config of --run")
    parser.add_argument("--run", metavar="DIR", help="the workdir of a training run, whose checkpoint is played")
    common.add_at(parser)
    parser.add_argument(
        "--pass", dest="drawn_in", choices=("multi", "single"), default="multi", help="single: each prefix from its source at once"
    )
    parser.add_argument("--pictures-only", action="store_true", help="draw, and leave the judging to `score`; a single pass always does")
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    if (args.config is None) and (args.run is None):
        raise ValueError("evaluate wants --config=FILE.py (a checkpoint as it is) or --run=DIR (a checkpoint of a run), or both.")
    at = common.which_checkpoint(args, run="run")
    config = common.load_config(args.config, overrides) if args.config else common.saved_config(args.run)
    for name, value in () if args.config else overrides:
        common.override(config, name, value)
    from editr2_jax import experiment, held_out
    from editr2_jax.evaluation import tables
    from editr2_jax.evaluation.benchmarks import judges

    run = Path(args.run).expanduser() if args.run else None
    workdir = common.claim_workdir(args.workdir, config, may_change=experiment.RESUMABLE)
    score = args.drawn_in == "multi" and not args.pictures_only
    say = lambda text: print(text, flush=True)  # noqa: E731
    summary = experiment.evaluate(config, workdir, checkpoints_of=run, at=at, say=say, drawn_in=args.drawn_in, score=score)
    if not score:
        print(f"{workdir}/eval: pictures are drawn; `python -m editr2_jax score --pictures={workdir}/eval/STEP/pictures ...` judges them.")
        return 0
    if summary is None:
        print(f"{workdir}: this step has been evaluated before; its tables stand in eval/ and report/index.html.")
        return 0
    for name, table in summary["tables"].items():
        print(tables.markdown(table, title=name))
    if "judge" in summary:
        print("judge: " + ", ".join(f"{name.removeprefix('judge/')} {count:g}" for name, count in summary["judge"].items()))
    if run is not None and (told := judges.warning(judges.identity(config.rewards), held_out.trained_by(run))):
        print(f"warning: {told}")
    return 0
