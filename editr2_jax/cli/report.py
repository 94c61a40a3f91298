"""write a run as one page: curves, before and after, the session inspector"""

from __future__ import annotations

from editr2_jax.cli import common
from editr2_jax.evaluation import report


def main(argv: list[str]) -> int:
    """`report --workdir=DIR`: writes DIR/report/index.html of a run, finished or not; prints its result in one line, then the path."""
    args = common.Parser("report", __doc__, workdir=True).parse(argv)
    path = report.write(args.workdir)
    print(report.result(args.workdir))
    print(path)
    return 0
