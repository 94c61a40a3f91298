"""score a folder of pictures, made by any tool, against a session folder: MICE-Bench and EdiVal-Bench tables"""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax score --pictures=DIR --data=FOLDER --workdir=OUT [--config=FILE.py] [--config.rewards.a=VALUE ...]`

    DIR/ID/turn_1.png ... turn_T.png are the pictures of the session ID; DIR/meta.json may say who made them. The same command again goes on
    where it was, and asks nothing that was answered. Without --config the rewards are those of the embedded world.
    """
    parser = common.Parser("score", main.__doc__, workdir=True)
    parser.add_argument(
        "--config", metavar="FILE.py[:VARIANT]", help="whose section `rewards` says who judges; --config.a.b=VALUE overrides"
    )
    parser.add_argument(
        "--pictures", required=True, metavar="DIR", help="the folder of pictures, such as `evaluate` writes to eval/STEP/pictures"
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the session folder that they were drawn for")
    parser.add_argument("--split", default="test", help="its split (default: test)")
    parser.add_argument("--turns", type=int, default=0, metavar="T", help="the first T turns of every session (default: all)")
    parser.add_argument("--sessions", type=int, default=0, metavar="N", help="the first N sessions of the split (default: all)")
    parser.add_argument(
        "--size", default="drawn", help="drawn: sources are cut to the pictures' size; source: pictures are stretched to the sources'"
    )
    parser.add_argument("--partial", action="store_true", help="score what is there; what is missing has the status no_picture")
    parser.add_argument(
        "--benchmark", default="", help="mice_bench or edival_bench (default: edival_bench where no session has a rule or pronouns)"
    )
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="as the leaderboard file shall say; none by default")
    parser.add_argument("--model", default="", help="what the leaderboard calls the pictures' maker (default: what meta.json says)")
    parser.add_argument("--trained-by", metavar="RUN", help="the workdir of the training run, where meta.json does not tell its judge")
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    config = _config(args.config, overrides)
    from editr2_jax import benchmarking, experiment, held_out
    from editr2_jax.evaluation.benchmarks import rendering

    trainer = held_out.trained_by(Path(args.trained_by).expanduser()) if args.trained_by else None
    if args.trained_by and trainer is None:
        raise ValueError(f"--trained-by={args.trained_by}: there is no config.json; give the workdir of the training run.")

    workdir = common.claim_workdir(args.workdir, config, may_change=experiment.RESUMABLE)
    with common.workdirs.exclusive(workdir):
        board = benchmarking.score(
            config,
            workdir,
            pictures=args.pictures,
            data=args.data,
            split=args.split,
            sessions=args.sessions,
            turns=args.turns,
            size=args.size,
            partial=args.partial,
            benchmark=args.benchmark,
            date=args.date,
            model=args.model,
            training_judge=trainer,
            say=lambda text: print(text, flush=True),
        )
    print(rendering.markdown(board))
    print("asked: " + (", ".join(f"{name} {count:g}" for name, count in sorted(board["asked"].items())) or "nothing"))
    print(workdir / "index.html")
    return 0


def _config(spec: str | None, overrides: list[tuple[str, str]]):
    from editr2_jax import presets

    if spec is not None:
        return common.load_config(spec, overrides)
    config = presets.tabletop(presets.edit_r2()).lock()
    for name, value in overrides:
        common.override(config, name, value)
    return config
