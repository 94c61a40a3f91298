"""init: a fresh checkpoint folder for the embedded world (sizes, tokenizer, random weights)."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax init --out=FOLDER [--seed=N]`: what launch/tiny_base.sh trains the shipped base from."""
    parser = common.Parser("init", main.__doc__)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="made in the official layout; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse(argv)
    from editr2_jax import assemble

    folder = Path(args.out).expanduser()
    if folder.exists():
        raise ValueError(f"{folder}: exists already; choose another --out.")
    print(f"{folder}: {assemble.make_checkpoint(folder, seed=args.seed)}")
    return 0
