"""PyTorch checkpoints in and out: convert, verify against recorded cases, export, and a rehearsal with random weights"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`port convert | verify | export | fake | load | compare | rehearse`."""
    verbs = {"convert": _convert, "verify": _verify, "export": _export, "fake": _fake, "load": _load, "compare": _compare}
    return common.call_subverb("port", argv, verbs | {"rehearse": _rehearse})


def _convert(argv: list[str]) -> int:
    """write a checkpoint again, every key accounted for: in the official layout or as an orbax checkpoint of ours"""
    parser = common.Parser("port convert", _convert.__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint folder in either layout, local or gs://")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not hold anything")
    parser.add_argument("--to", default="official", help="official (default: safetensors) or orbax (restores onto any mesh)")
    parser.add_argument("--dtype", help="bfloat16 or float32, the autoencoder stays float32; by default the files' own types")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files that hold the model in the official layout")
    args = parser.parse(argv)
    from editr2_jax.porting import convert

    _on_cpu()
    begun = time.monotonic()
    _tell(args.out, convert.convert(args.checkpoint, args.out, to=args.to, dtype=args.dtype, shards=args.shards, say=_say))
    _tell_cost(begun)
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
    """write a checkpoint of a run, or a checkpoint folder, in the official layout; with --adapter as PEFT reads it"""
    parser = common.Parser("port export", _export.__doc__)
    parser.add_argument("--workdir", metavar="DIR", help="a training run")
    common.add_at(parser)
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint folder in either layout, or the name of a shipped one")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not hold anything")
    parser.add_argument("--adapter", action="store_true", help="the adapter of the run alone")
    parser.add_argument("--dtype", metavar="TYPE", help="bfloat16 or float32; by default the run's or the folder's")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files that hold the model of a checkpoint folder")
    parser.add_argument("--fold", metavar="DIR", help="an adapter in PEFT's layout to fold into a checkpoint folder")
    args = parser.parse(argv)
    if (args.workdir is None) == (args.checkpoint is None):
        raise ValueError("port export wants either --workdir=DIR (a checkpoint of a run) or --checkpoint=DIR (a folder).")
    at = common.which_checkpoint(args, run="workdir")
    if args.workdir is not None and (args.fold or args.shards != 1):
        raise ValueError("--fold and --shards are for --checkpoint=DIR; export the run first, then its folder.")
    if args.adapter and args.workdir is None:
        raise ValueError("a checkpoint folder has no adapter; give --workdir=DIR of a run that trained one, or leave --adapter out.")
    if args.adapter and args.dtype:
        raise ValueError("an adapter is float32; leave --dtype out, or export the whole.")
    _on_cpu()
    if args.workdir is not None:
        from editr2_jax import exporting

        run = Path(args.workdir).expanduser()
        config, out = common.saved_config(run), Path(args.out).expanduser()
        print(exporting.export(config, run, out, adapter=args.adapter, dtype=args.dtype, at=at))
        return 0
    from editr2_jax import assemble
    from editr2_jax.porting import convert, model_card

    begun, card = time.monotonic(), model_card.Card()
    folder = args.checkpoint if "://" in args.checkpoint else assemble.checkpoint_folder(args.checkpoint)
    more = {"dtype": args.dtype, "shards": args.shards, "adapter": args.fold, "card": card}
    _tell(args.out, convert.convert(folder, args.out, **more, say=_say))
    _tell_cost(begun)
    return 0


def _fake(argv: list[str]) -> int:
    """write a checkpoint of random numbers with every key and shape of a real one"""
    parser = common.Parser("port fake", _fake.__doc__)
    _add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not hold anything")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files that hold the model")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--tokenizer", metavar="DIR", help="a folder whose tokenizer files are copied along")
    parser.add_argument("--digests", metavar="FILE", help="also write the digest of every tensor, for port compare")
    args = parser.parse(argv)
    from editr2_jax.porting import fake

    _on_cpu()
    begun = time.monotonic()
    digests = fake.write(args.out, _model(args), shards=args.shards, seed=args.seed, tokenizer=args.tokenizer, say=_say)
    if args.digests:
        Path(args.digests).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(digests)} tensors")
    _tell_cost(begun)
    return 0


def _load(argv: list[str]) -> int:
    """read a checkpoint as several simulated devices do, sharded, and compare it with another folder of the same weights"""
    parser = common.Parser("port load", _load.__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint folder in either layout")
    parser.add_argument("--against", metavar="DIR", help="another one that must hold the same numbers")
    parser.add_argument("--devices", type=int, default=8, metavar="N", help="simulated devices (8)")
    parser.add_argument("--by", default="device", choices=("device", "leaf"), help="what is in memory at once")
    args = parser.parse(argv)
    import jax

    from editr2_jax.porting import rehearsal

    _on_cpu()
    jax.config.update("jax_num_cpu_devices", args.devices)
    begun = time.monotonic()
    load = rehearsal.load_shares if args.by == "device" else rehearsal.load_leaves
    different = load(args.checkpoint, args.against, say=_say)
    print(_verdict(different) if args.against else f"{args.checkpoint}: read")
    _tell_cost(begun)
    return 1 if different else 0


def _compare(argv: list[str]) -> int:
    """compare a checkpoint in the official layout with another one, or with digests, tensor by tensor"""
    parser = common.Parser("port compare", _compare.__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint folder in the official layout")
    parser.add_argument("--against", metavar="DIR", help="another one")
    parser.add_argument("--digests", metavar="FILE", help="what port fake --digests wrote")
    args = parser.parse(argv)
    if (args.against is None) == (args.digests is None):
        raise ValueError("port compare wants either --against=DIR (a folder) or --digests=FILE (of port fake).")
    from editr2_jax.porting import fake

    begun = time.monotonic()
    told = fake.digests_of(args.against) if args.against else json.loads(Path(args.digests).read_text(encoding="utf-8"))
    different = fake.compare(args.checkpoint, told, say=_say)
    print(f"{len(told)} tensors: {_verdict(different)}")
    _tell_cost(begun)
    return 1 if different else 0


def _rehearse(argv: list[str]) -> int:
    """fake, convert, load over simulated devices, export, compare; prints seconds and peak memory, and removes it all"""
    parser = common.Parser("port rehearse", _rehearse.__doc__)
    _add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder, on a disk with room for two checkpoints")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files that hold the model")
    parser.add_argument("--devices", type=int, default=8, metavar="N", help="simulated devices (8)")
    parser.add_argument("--keep", action="store_true", help="leave the folders there")
    args = parser.parse(argv)
    from editr2_jax.porting import fake, rehearsal

    _on_cpu()
    stages, size = [], fake.size(_model(args))
    flags = [f"--{name}={value}" for name in ("manifest", "like", "layers") if (value := getattr(args, name)) is not None]
    for stage in rehearsal.run(args.out, flags, shards=args.shards, devices=args.devices, fake_size=size, keep=args.keep):
        print(f"{stage.name}: {stage.seconds:.0f} s, peak host memory {stage.peak / 1e9:.2f} GB", flush=True)
        stages.append(stage)
    print(f"\n{size / 1e9:.1f} GB of weights, back identical.\n\n{rehearsal.table(stages)}")
    return 0


def _add_model(parser: common.Parser) -> None:
    parser.add_argument("--manifest", metavar="FILE", help="JSON with configuration, keys and shapes; by default BAGEL-7B-MoT")
    parser.add_argument("--like", metavar="DIR", help="a folder with llm_config.json and its companions, instead of a manifest")
    parser.add_argument("--layers", type=int, metavar="N", help="so many layers instead of all")


def _model(args):
    """The configuration that the flags of _add_model name."""
    if args.manifest and args.like:
        raise ValueError("--manifest and --like both name a model; give one of them.")
    from editr2_jax.models.bagel import config
    from editr2_jax.porting import bagel_weights, fake

    size = fake.of_manifest(args.manifest) if args.manifest else bagel_weights.read_config(args.like) if args.like else config.bagel_7b()
    return fake.shrunk(size, args.layers) if args.layers else size


def _on_cpu() -> None:
    """Weights are checked and written in host memory; recorded cases are float32 on a CPU."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _say(text: str) -> None:
    print(text, flush=True)


def _verdict(different: list[str]) -> str:
    return f"{len(different)} differ: {', '.join(different[:8])}" if different else "identical"


def _tell_cost(begun: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{time.monotonic() - begun:.1f} s, peak host memory {peak / 1e9:.2f} GB")


def _tell(out: str, account) -> None:
    files = f", with {', '.join(account.tokenizer)}" if account.tokenizer else ", without a tokenizer"
    print(f"{out}: {account.keys} tensors, {account.parameters:,} parameters, {account.size / 1e6:,.1f} MB{files}")
