"""from a cell of a benchmark's table to the verdicts and requests behind it"""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax trace --workdir=OUT "TABLE/ROW/COLUMN"`, such as "turn/T1/if_success"

    Prints one JSON line per verdict: session, turn, score, status, its key in verdicts/, and every request with prompt hash and answer.
    """
    parser = common.Parser("trace", main.__doc__, workdir=True)
    parser.add_argument("cell", metavar="TABLE/ROW/COLUMN", help="as in leaderboard.json, and in the addresses of index.html")
    args = parser.parse(argv)
    from editr2_jax.evaluation import tables
    from editr2_jax.evaluation.benchmarks import leaderboard, trace

    folder = Path(args.workdir).expanduser()
    found = trace.cell(leaderboard.read(folder), args.cell)
    for line in trace.lines(tables.read(folder / tables.SCORES), found["from"]):
        print(line)
    return 0
