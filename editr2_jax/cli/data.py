"""session folders: name every bad line, count, write the embedded world or photographs as one"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editr2_jax.cli import common
from editr2_jax.records import SUBSETS

_SUBSET = "subset of the records that name none (default: memory in a folder named cm, understanding in cu, else plain)"


def main(argv: list[str]) -> int:
    """`data check | stats | make | photos`."""
    return common.call_subverb("data", argv, {"check": _check, "stats": _stats, "make": _make, "photos": _photos})


def _check(argv: list[str]) -> int:
    """name every bad line and picture of a session folder; exits 1 if there is one"""
    from editr2_jax.data import check

    args = _folder_parser("data check", _check.__doc__).parse(argv)
    report = check.check(args.folder, subset_default=args.subset, pictures=not args.no_pictures)
    _show(report, check.check_text(report), args.json)
    return 1 if report["problems"] else 0


def _stats(argv: list[str]) -> int:
    """count the sessions of a folder: types of edit by turn, subsets, picture sizes"""
    from editr2_jax.data import check

    args = _folder_parser("data stats", _stats.__doc__).parse(argv)
    report = check.stats(args.folder, subset_default=args.subset, pictures=not args.no_pictures)
    _show(report, check.stats_text(report), args.json)
    return 0


def _make(argv: list[str]) -> int:
    """write the embedded tabletop world as a session folder: pictures, instructions, ground truth"""
    parser = common.Parser("data make", _make.__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--train", type=int, default=2048, metavar="N", help="training sessions (default: 2048)")
    parser.add_argument("--test", type=int, default=512, metavar="N", help="held-out sessions (default: 512)")
    parser.add_argument("--seed", type=int, default=0, help="of the world (default: 0)")
    parser.add_argument("--turns", type=int, default=3, help="of every session (default: 3)")
    parser.add_argument("--size", type=_size, default=(64, 64), metavar="HxW", help="pixels of every picture (default: 64x64)")
    parser.add_argument("--targets", action="store_true", help="also write the ground-truth picture after every turn")
    parser.add_argument("--subset", choices=SUBSETS, help="sessions of this subset alone (default: all three by turns)")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw (default: 0, none but this one)")
    args = parser.parse(argv)
    from editr2_jax.tabletop import world

    settings = {name: getattr(args, name) for name in ("seed", "turns", "subset", "size", "targets", "workers")}
    world.write_folder(Path(args.out), {"train": args.train, "test": args.test}, **settings)
    print(f"{args.out}: {args.train} training and {args.test} held-out sessions of the embedded world")
    return 0


def _photos(argv: list[str]) -> int:
    """write a small session folder over real photographs (needs scikit-image)"""
    from editr2_jax.data import photos

    parser = common.Parser("data photos", _photos.__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--split", default="train", help="name of the split (default: train)")
    args = parser.parse(argv)
    print(f"{args.out}: {photos.write_folder(args.out, args.split)} sessions over photographs, split {args.split}")
    return 0


def _folder_parser(verb: str, about: str | None) -> common.Parser:
    parser = common.Parser(verb, about)
    parser.add_argument("folder", metavar="DIR", help="a session folder: SPLIT_metadata.jsonl and pictures")
    parser.add_argument("--subset", choices=SUBSETS, help=_SUBSET)
    parser.add_argument("--no-pictures", action="store_true", help="look at the records alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def _show(report: dict[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(report, indent=2, ensure_ascii=False) if as_json else text)
