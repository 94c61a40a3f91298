"""how often the rewards of the embedded world are wrong, where the truth is known"""

from __future__ import annotations

import json

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """Prints the table; --json for the numbers."""
    parser = common.Parser("perception", __doc__)
    parser.add_argument("--n", type=int, default=200, metavar="N", help="turns a row, right and wrong each (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the world (default: 0)")
    parser.add_argument("--side", type=int, default=64, help="of the pictures, in pixels (default: 64)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse(argv)
    from editr2_jax.tabletop import perception_report

    report = perception_report.measure(args.n, args.seed, args.side)
    print(json.dumps(report, indent=2) if args.json else perception_report.markdown(report))
    return 0
