"""plan: compile every phase for a named TPU topology on this machine: bytes per chip, fits or not, FLOPs, collectives, least seconds."""

from __future__ import annotations

import shlex
from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax plan --config=FILE.py[:VARIANT] --topology=v5e:4x4 [--json=FILE] [--only=PHASE,...] [--config.a.b=VALUE ...]`

    Nothing is read but the config and, where it is there, the checkpoint's configuration; no array is made. --topology=here takes the
    devices at hand. --search="rows=24,48;remat=full,attention;fsdp=16,8" plans every combination in turn, says which cannot be, and lists
    the others by their seconds. Exit status 1 where a phase does not fit. `plan --table=FILE,...` puts plans that were written by --json
    side by side, as Markdown.
    """
    if len(argv) == 1 and argv[0].startswith("--table="):
        return _table(argv[0].removeprefix("--table=").split(","))
    parser = common.Parser("plan", main.__doc__, config=True)
    parser.add_argument("--topology", required=True, metavar="GEN:AxB", help="such as v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1; or here")
    parser.add_argument("--only", default="", metavar="PHASE,...", help="some of the phases; no totals then")
    parser.add_argument("--size", default="", metavar="HxW", help="of the pictures; by default tabletop.size")
    parser.add_argument(
        "--search", default="", metavar="KNOB=A,B;...", help="rows, remat, attention, data, fsdp, tensor, sequence, train, rollout, words"
    )
    parser.add_argument("--keep", metavar="DIR", help="keep the optimised programs' texts there")
    parser.add_argument("--json", metavar="FILE", help="also write everything there")
    args = parser.parse(argv)
    out = Path(args.json).expanduser() if args.json else None
    if out and not out.parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {out.parent}; make it first.")
    from editr2_jax.plan import phases, search, topology
    from editr2_jax.runtime import workdir

    topologies = topology.of(args.topology)
    size = _size(args.size) if args.size else tuple(args.config.tabletop.size)
    only = tuple(name for name in args.only.split(",") if name)
    command = shlex.join(["python", "-m", "editr2_jax", "plan", *_without_json(argv)])
    keep = workdir.writable(args.keep, flag="--keep") if args.keep else None
    said = {"say": lambda text: print(text, flush=True), "command": command, "keep": keep}
    plans, good = [], True
    for told, config in list(search.variants(args.config, args.search)):
        if told:
            print(f"\n{told}", flush=True)
        try:
            subject = phases.Subject(config, topologies, size=size)
        except ValueError as error:
            if not told:
                raise
            print(f"cannot be: {error}", flush=True)
            plans, good = [*plans, {"varied": told, "refused": str(error)}], False
        else:
            plan, fit = search.plan(subject, only=only, **said)
            plans, good = [*plans, plan | {"varied": told}], good and fit
        if out:  # after each: a search takes hours
            workdir.write_json(out, {"plans": plans} if args.search else plans[0])
    if args.search:
        print(search.ranked(plans))
    return int(not good)


def _table(names: list[str]) -> int:
    from editr2_jax.plan import table
    from editr2_jax.runtime import workdir

    if missing := [name for name in names if not Path(name).is_file()]:
        raise ValueError(f"--table: there is no {', '.join(missing)}; give files that plan --json wrote.")
    plans = [workdir.read_json(Path(name)) for name in names]
    if other := [name for name, plan in zip(names, plans, strict=True) if not {"phases", "plans"} & set(plan)]:
        raise ValueError(f"--table: {', '.join(other)}: no plan; give files that plan --json wrote.")
    print(table.markdown(plans), end="")
    return 0


def _without_json(argv: list[str]) -> list[str]:
    """The arguments without --json=FILE or --json FILE."""
    return [a for before, a in zip(["", *argv], argv, strict=False) if not a.startswith("--json") and before != "--json"]


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size={text}: give HEIGHTxWIDTH in pixels, such as 512x512.")
    return int(height), int(width)
