"""PyTorch checkpoints in and out: convert, verify against recorded cases, export"""

from __future__ import annotations

import json
from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`port convert | verify | export`."""
    return common.call_subverb("port", argv, {"convert": _convert, "verify": _verify, "export": _export})


def _convert(argv: list[str]) -> int:
    """copy a checkpoint in the official layout, every key accounted for, in one type"""
    parser = common.Parser("port convert", _convert.__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="llm_config.json, vit_config.json, ema and ae .safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not hold anything")
    parser.add_argument("--dtype", default="float32", help="bfloat16 or float32 (default); the autoencoder stays float32")
    args = parser.parse(argv)
    from editr2_jax.porting import convert

    _on_cpu()
    account = convert.convert(args.checkpoint, args.out, dtype=args.dtype, say=lambda text: print(text, flush=True))
    _tell(args.out, account)
    return 0


def _verify(argv: list[str]) -> int:
    """run recorded cases of the published code through ours; exits 0 only if all hold"""
    parser = common.Parser("port verify", _verify.__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint folder in the official layout")
    parser.add_argument("--cases", required=True, metavar="DIR", help="cases.json and cases.safetensors recorded with it")
    parser.add_argument("--json", metavar="FILE", help="also write a row per tensor as JSON")
    parser.add_argument("--only", default="", metavar="A,B", help="these cases alone")
    args = parser.parse(argv)
    from editr2_jax.porting import verify

    _on_cpu()
    only = [name for name in args.only.split(",") if name]
    verdicts = []
    for verdict in verify.verify(args.checkpoint, args.cases, only=only):
        if not verdicts:
            print(verify.header())
        verdicts.append(verdict)
        print(verify.line(verdict), flush=True)
    print(verify.summary(verdicts))
    if args.json:
        Path(args.json).write_text(json.dumps(verify.as_json(verdicts), indent=1) + "\n", encoding="utf-8")
    return 0 if verify.holds(verdicts) else 1


def _export(argv: list[str]) -> int:
    """write a run's last checkpoint, or a checkpoint folder, in the official layout; with --adapter as PEFT reads it"""
    parser = common.Parser("port export", _export.__doc__)
    parser.add_argument("--workdir", metavar="DIR", help="a training run")
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint folder, or the name of a shipped one")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not hold anything")
    parser.add_argument("--adapter", action="store_true", help="the adapter of the run alone")
    parser.add_argument("--dtype", metavar="TYPE", help="bfloat16 or float32; by default the run's")
    args = parser.parse(argv)
    if (args.workdir is None) == (args.checkpoint is None):
        raise ValueError("port export wants either --workdir=DIR (the last checkpoint of a run) or --checkpoint=DIR (a folder).")
    if args.adapter and args.workdir is None:
        raise ValueError("a checkpoint folder has no adapter; give --workdir=DIR of a run that trained one, or leave --adapter out.")
    _on_cpu()
    if args.workdir is not None:
        from editr2_jax import experiment

        run = Path(args.workdir).expanduser()
        print(experiment.export(common.saved_config(run), run, Path(args.out).expanduser(), adapter=args.adapter, dtype=args.dtype))
        return 0
    from editr2_jax import assemble
    from editr2_jax.porting import bagel_weights, convert

    folder = assemble.checkpoint_folder(args.checkpoint)
    model = bagel_weights.load_folder(folder, dtype=args.dtype or "float32")
    _tell(args.out, convert.export_model(model, args.out, tokenizer=folder))
    return 0


def _on_cpu() -> None:
    """Weights are checked and written in host memory; recorded cases are float32 on a CPU."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _tell(out: str, account) -> None:
    files = f", with {', '.join(account.tokenizer)}" if account.tokenizer else ", without a tokenizer"
    print(f"{out}: {account.keys} tensors, {account.parameters:,} parameters, {account.size / 1e6:,.1f} MB{files}")
