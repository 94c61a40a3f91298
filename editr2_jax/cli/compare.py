"""put several scorings of the same sessions side by side, with paired differences"""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax compare OUT1 OUT2 ... --out=DIR`

    OUT1, OUT2, ... are workdirs of `score`; every other one is compared with the first. Writes comparison.json, tables.md, tables.tex and
    index.html.
    """
    parser = common.Parser("compare", main.__doc__)
    parser.add_argument("folders", nargs="+", metavar="OUT", help="workdirs of `score`")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    args = parser.parse(argv)
    from editr2_jax import benchmarking
    from editr2_jax.evaluation.benchmarks import rendering

    out = common.workdirs.writable(args.out, flag="--out")
    print(rendering.markdown(benchmarking.compare([Path(folder) for folder in args.folders], out)))
    print(out / "index.html")
    return 0
