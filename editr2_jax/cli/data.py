"""session folders: name every bad line, count, convert, write the embedded world or photographs as one"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from editr2_jax.cli import common
from editr2_jax.records import SUBSETS

_TABLES = {  # data sets of others -> their flag, and what it takes
    "edival": ("csv", "the CSV of EdiVal-Bench"),
    "magicbrush": ("turns", "edit_sessions.json, or a .tsv file with the columns of the other release"),
    "pico_banana": ("jsonl", "the multi-turn file of Pico-Banana-400K"),
}
_SUBSET = "subset of the records that name none (default: memory in a folder named cm, understanding in cu, else plain)"


def main(argv: list[str]) -> int:
    """`data check | stats | convert | make | photos`."""
    verbs = {"check": _check, "stats": _stats, "convert": _convert, "make": _make, "photos": _photos}
    return common.call_subverb("data", argv, verbs)


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


def _convert(argv: list[str]) -> int:
    """write a session folder with its pictures in shards, or another data set as a session folder"""
    parser = common.Parser("data convert", _convert.__doc__)
    parser.add_argument("--from", dest="source", required=True, choices=("sessions", *_TABLES), help="what is there")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; nothing is overwritten")
    parser.add_argument("folder", metavar="DIR", nargs="?", help="sessions: the session folder to convert")
    parser.add_argument("--to", choices=("array_record", "tfds"), help="sessions: shards alone, or shards that tfds opens too")
    parser.add_argument("--shards", type=int, metavar="N", help="sessions: files of every split (default: 1)")
    parser.add_argument("--subset", choices=SUBSETS, help=f"sessions: {_SUBSET}")
    for name, (flag, what) in _TABLES.items():
        parser.add_argument(f"--{flag}", metavar="FILE", help=f"{name}: {what}")
    parser.add_argument("--images", metavar="DIR", help="other data sets: the folder of their pictures")
    parser.add_argument("--split", help="other data sets: the split to write (default: test for edival, else train)")
    parser.add_argument("--skip-bad", action="store_true", help="other data sets: leave out sessions with bad rows, naming them")
    args = parser.parse(argv)
    needs = ("folder", "to") if args.source == "sessions" else (_TABLES[args.source][0], "images")
    takes = (*needs, *(("shards", "subset") if args.source == "sessions" else ("split", "skip_bad")))
    for name in ("folder", "to", "shards", "subset", *(flag for flag, _ in _TABLES.values()), "images", "split", "skip_bad"):
        if getattr(args, name) and name not in takes:
            parser.error(f"{_spelt(name)} is not for --from={args.source}")
    lost = [name for name in needs if not getattr(args, name)]
    if lost:
        parser.error(f"--from={args.source} wants {_spelt(lost[0])} too")
    return _to_shards(args) if args.source == "sessions" else _from_table(args)


def _spelt(name: str) -> str:
    return "DIR" if name == "folder" else f"--{name.replace('_', '-')}"


def _to_shards(args: argparse.Namespace) -> int:
    from editr2_jax.data import convert

    count = 1 if args.shards is None else args.shards
    manifest = convert.to_shards(args.folder, args.out, to=args.to, count=count, subset_default=args.subset)
    for split, told in manifest["splits"].items():
        size = sum(shard["bytes"] for shard in told["shards"])
        files = f"{len(told['shards'])} shard{'s' * (len(told['shards']) > 1)}"
        print(f"{split}: {told['sessions']} sessions, {told['pictures']} pictures in {files}, {size / 1e6:.1f} MB")
    return 0


def _from_table(args: argparse.Namespace) -> int:
    from editr2_jax.data.foreign import edival, magicbrush, pico_banana, writing

    read = {"edival": edival.read, "magicbrush": magicbrush.read, "pico_banana": pico_banana.read}[args.source]
    split = args.split or ("test" if args.source == "edival" else "train")
    found, problems = read(Path(getattr(args, _TABLES[args.source][0])), Path(args.images), split)
    count, problems = writing.write(found, problems, args.out, split, skip_bad=args.skip_bad)
    for problem in problems:
        print(problem)
    left = f"; what is named above was left out: {len(problems)} problems" if problems else ""
    print(f"{args.out}: {count} sessions, split {split}{left}")
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
