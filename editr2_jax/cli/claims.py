"""claims: what the papers say, asked of the embedded world: a matrix of small runs and its table."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common

COMMON = "configs/tabletop_edit_r2.py:claims"


def main(argv: list[str]) -> int:
    """`python -m editr2_jax claims --out=DIR [--only=QUESTION[/ARM],...] [--seeds=N] [--jobs=N] [--list] [--table]`

    Runs what is missing below DIR/runs and writes claims.md, claims.json and claims.svg. The same command goes on where it was cut off.
    """
    parser = common.Parser("claims", main.__doc__)
    parser.takes_config = True
    parser.add_argument("--out", metavar="DIR", help="the folder of the runs and the table")
    parser.add_argument("--config", default=COMMON, metavar="FILE.py[:VARIANT]", help="what all arms have in common")
    parser.add_argument("--only", default="", metavar="QUESTION[/ARM],...", help="some of the questions, or one arm of a question")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="training seeds 0 .. N-1")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; two on two cores take less time than one by one")
    parser.add_argument("--list", action="store_true", help="say what is asked, and run nothing")
    parser.add_argument("--table", action="store_true", help="make the table of what has been run, and run nothing")
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    from editr2_jax.claims import questions as claims
    from editr2_jax.claims import run

    chosen = claims.chosen([name for name in args.only.split(",") if name])
    if args.list:
        print("\n".join(f"{q.name}: {q.asks}\n    {', '.join(q.arms)} against {q.against}" for q in chosen))
        return 0
    if not args.out:
        raise ValueError("claims wants --out=DIR, the folder of its runs and its table; --list only says what is asked.")
    if args.seeds < 1:
        raise ValueError(f"--seeds is {args.seeds}; give at least 1, and 3 for an interval that means something.")
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}; give at least 1.")
    out = Path(args.out).expanduser()
    matrix = run.Matrix(
        questions=chosen,
        seeds=range(args.seeds),
        out=out,
        spec=args.config,
        overrides=overrides,
        config_of=lambda more: common.load_config(args.config, [*overrides, *more.items()]),
        command=_command(args, overrides),
        name="claims_some" if args.only else "claims",  # the whole table is not lost to a part of it
    )
    if args.table:
        print(f"table: {run.write_table(matrix)}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    say = lambda text: print(text, flush=True)  # noqa: E731
    print(run.run(matrix, config=common.load_config(args.config, overrides), say=say, jobs=args.jobs))
    return 0


def _command(args, overrides: list[tuple[str, str]]) -> str:
    """What makes the table again."""
    given = [f"--only={args.only}"] if args.only else []
    given += [f"--seeds={args.seeds}", f"--config={args.config}", *(f"--config.{name}={value}" for name, value in overrides)]
    return " ".join(["python -m editr2_jax claims --out=DIR", *given])
