"""bench: milliseconds, FLOPs and the share of this machine's matrix-product rate, phase by phase."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common

# Official PyTorch code, mid size, batch 1, float32, a quiet pair of cores; given with the task, not measured by this command.
REFERENCE = {
    "ms_per_guided_denoising_step": 155.0,
    "seconds_for_the_contexts_of_three_turns": 0.51,
    "seconds_per_learning_step_with_kl_reference": (0.65, 0.9),
}


def main(argv: list[str]) -> int:
    """`python -m editr2_jax bench [--size=tiny|mid|all] [--batch=1,16] [--only=PHASE,...] [--repeats=N] [--json=FILE]`

    Times are the best of N calls after a first one that compiles. FLOPs are those that a phase needs (policies/flops.py): padding,
    masked slots and recomputation are not counted. Nothing else should run on the machine meanwhile.
    """
    parser = common.Parser("bench", main.__doc__)
    parser.add_argument("--size", default="all", help="tiny (the shipped checkpoint's), mid, or all")
    parser.add_argument("--batch", default="1,16", metavar="B,...", help="sessions side by side")
    parser.add_argument("--only", default="", metavar="PHASE,...", help="some of the phases")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed calls of each phase")
    parser.add_argument("--rank", type=int, default=64, help="of the adapter in recall and update; play runs without one")
    parser.add_argument("--unroll", type=int, default=1, help="decoder layers per iteration of the layer scan")
    parser.add_argument("--json", metavar="FILE", help="also write everything there")
    args = parser.parse(argv)
    batches = _counts("--batch", args.batch)
    for flag in ("repeats", "rank", "unroll"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag} is {getattr(args, flag)}; give at least 1.")
    out = Path(args.json).expanduser() if args.json else None
    if out and not out.parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {out.parent}; make it first.")
    from editr2_jax.benchmark import cases, phases, timing
    from editr2_jax.runtime import workdir

    names = _chosen("--only", args.only, tuple(phases.PHASES))
    sizes = cases.SIZES if args.size == "all" else _chosen("--size", args.size, cases.SIZES)
    rates = timing.matrix_rates(repeats=max(args.repeats, 5))
    print(_machine(rates) + "\n\n" + _HEADER, flush=True)
    rows, dialogues = [], {}
    for size in sizes:
        dialogue = cases.dialogue(size, checkpoint=Path(__file__).parents[1] / "assets" / "tabletop_tiny", rank=args.rank)
        dialogues[size] = dialogue
        model = cases.random_model(dialogue.config, unroll=args.unroll)
        for batch in batches:
            stage = cases.Stage(dialogue=dialogue, batch=batch, model=model)
            for row in phases.run(size, stage, names, repeats=args.repeats, matrix_rate=max(rates.values())):
                rows.append(row)
                print(_line(row), flush=True)
    print("\n" + "\n".join(_about(size, dialogue, rows) for size, dialogue in dialogues.items()) + "\n" + _reference())
    if out:
        found = {"matrix_gflops": {str(side): rate for side, rate in rates.items()}, "environment": _environment()}
        found |= {"sizes": {size: _sizes(d) for size, d in dialogues.items()}, "rows": [row.as_json() for row in rows]}
        workdir.write_json(out, found | {"given_for_pytorch": REFERENCE})
    return 0


def _counts(flag: str, text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag}={text} is no list of numbers; write for example {flag}=1,16.") from None
    if min(counts) < 1:
        raise ValueError(f"{flag}={text}: give numbers of at least 1.")
    return counts


def _chosen(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The named ones in their usual order; all of them for an empty text. Raises ValueError naming what there is."""
    wanted = text.split(",") if text else known
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{flag} does not know {', '.join(unknown)}; choose from {', '.join(known)}.")
    return tuple(name for name in known if name in wanted)


# The table ----------------------------------------------------------------------------------------------------------------------------

_HEADER = (
    f"{'size':<5} {'B':>3}  {'phase':<8} {'one':<25} {'ms/session':>11} {'ms/batch':>11} {'GFLOP/session':>14} {'GFLOP/s':>8} {'share':>6} "
    f"{'compile s':>10}"
)


def _line(row) -> str:
    return (
        f"{row.size:<5} {row.batch:>3}  {row.phase:<8} {row.unit:<25} {row.milliseconds_per_session:>11.2f} {row.milliseconds:>11.2f} "
        f"{row.flops / row.batch / 1e9:>14.4g} {row.rate:>8.1f} {row.share:>6.1%} {row.compile_seconds:>10.1f}"
    )


def _environment() -> dict:
    import os

    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"backend": jax.default_backend(), "device": jax.devices()[0].device_kind, "cores": cores, "jax": jax.__version__}


def _machine(rates: dict[int, float]) -> str:
    where = _environment()
    products = ", ".join(f"{rate:.0f} GFLOP/s at {side}^3" for side, rate in rates.items())
    return f"jax {where['jax']}, {where['backend']}, {where['cores']} cores. float32 matrix products: {products}; shares are of the larger."


def _sizes(d) -> dict:
    return {
        "pixels": [d.height, d.width],
        "turns": d.turns,
        "steps_per_picture": d.steps,
        "latent_tokens": d.latents,
        "vit_tokens": d.patches,
        "context_tokens_of_the_last_turn": list(d.visible(d.turns - 1)),
        "tokens": {"instruction": d.instruction, "system": d.system, "question": d.question, "intent": d.intent},
        "adapter_rank": d.rank,
        "learning_steps_per_update": d.turns * d.window,
    }


def _about(size: str, d, rows) -> str:
    seen, lessons = " / ".join(map(str, d.visible(d.turns - 1))), d.turns * d.window
    updates = [row for row in rows if (row.size, row.phase) == (size, "update")]
    shares = ", ".join(f"{row.milliseconds_per_session / lessons:.0f} ms at batch {row.batch}" for row in updates)
    return (
        f"{size}: {d.width}x{d.height} pixels, {d.turns} turns of {d.steps} steps, {d.latents} + 2 query tokens over {seen} context tokens "
        f"at the last turn; intents of {d.intent} tokens; an update holds {lessons} learning steps (turn x stochastic step) and "
        f"{d.turns - 1} intents, adapter rank {d.rank}" + (f"; per learning step, all included: {shares}." if shares else ".")
    )


def _reference() -> str:
    step, contexts, (low, high) = REFERENCE.values()
    return (
        "For orientation, given and not measured here: the official PyTorch code at mid, batch 1, float32, on a quiet pair of cores takes "
        f"{step:.0f} ms per guided denoising step, {contexts} s for the contexts of three turns, {low} to {high} s per learning step with "
        "the KL reference (it rebuilds the contexts for each)."
    )
