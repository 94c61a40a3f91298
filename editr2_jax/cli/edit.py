"""edit: one session by hand, an image and instructions in, pictures and intents out."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax edit --image=FILE --say="..." [--say="..." ...] --out=DIR [--checkpoint=DIR | --run=DIR] [--config=FILE.py]`

    Every --say is one turn. With --run its last checkpoint draws, or the one that --at names. Writes OUT/turn_N.png, OUT/session.json
    (instructions, intents, files) and OUT/strip.png.
    """
    parser = common.Parser("edit", main.__doc__)
    parser.add_argument("--image", required=True, metavar="FILE", help="the source picture: PNG, JPEG, WEBP or BMP of any size")
    parser.add_argument("--say", required=True, action="append", metavar="TEXT", help="an instruction; give one --say per turn, in order")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the pictures go; made if needed")
    parser.add_argument("--run", metavar="DIR", help="a training run, whose checkpoint and config are used")
    common.add_at(parser)
    parser.add_argument(
        "--config", default=None, metavar="FILE.py[:VARIANT]", help="how to draw; by default that of the shipped base, or the run's own"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint folder, or the name of a shipped one")
    parser.add_argument("--seed", type=int, default=0, help="of the initial noise")
    overrides, rest = common.split_overrides(argv)
    args = parser.parse(rest)
    at = common.which_checkpoint(args, run="run")
    from editr2_jax import experiment, presets

    if args.config:
        config = common.load_config(args.config)
    else:
        config = common.saved_config(args.run) if args.run else presets.tabletop(presets.edit_r2()).lock()
    for name, value in overrides:
        common.override(config, name, value)
    run = Path(args.run).expanduser() if args.run else None
    for line in experiment.edit(
        config, image=args.image, instructions=args.say, out=Path(args.out), run=run, checkpoint=args.checkpoint, seed=args.seed, at=at
    ):
        print(line)
    return 0
