"""a detector or a feature extractor behind HTTP, for runs on this machine or, with a token, on others"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from editr2_jax.cli import common

_ABOUT = {
    "max_body_bytes": "of a request",
    "max_pictures": "of a request",
    "max_pixels": "of all pictures of a request together",
    "max_phrases": "of a request",
    "max_phrase_chars": "of a phrase",
    "max_requests": "being answered at a time; more are told to come back",
    "body_s": "seconds for the body of a request to come",
    "batch": "pictures of waiting requests that are embedded in one call; above 1 last bits may depend on who else waits",
    "head_s": "seconds for the head of a request to come",
    "write_s": "seconds for a client to take its answer",
    "max_connections": "at a time",
    "grace_s": "seconds for what is being answered when the server is told to stop",
}


def main(argv: list[str]) -> int:
    """`serve detector | features`."""
    return common.call_subverb("serve", argv, {"detector": _detector, "features": _features})


def _detector(argv: list[str]) -> int:
    """finds named objects: POST /v1/detect"""
    parser = _parser("serve detector", _detector.__doc__, ("grounding_dino", "tabletop"))
    parser.add_argument("--threshold", type=float, default=0.25, help="confidence that boxes must exceed (default: 0.25)")
    args = _parse(parser, argv)
    name = args.name or (args.kind if args.kind == "tabletop" else f"{Path(args.folder).resolve().name}@{args.threshold:g}")

    def make() -> Any:
        if args.kind == "tabletop":
            from editr2_jax.tabletop.perception import TabletopDetector

            return TabletopDetector()
        from editr2_jax.services.grounding_dino import GroundingDino

        return GroundingDino(args.folder, device=args.device, threshold=args.threshold)

    return _serve(args, name, make)


def _features(argv: list[str]) -> int:
    """embeds pictures: POST /v1/embed"""
    parser = _parser("serve features", _features.__doc__, ("dinov3_torch", "dinov3", "tabletop"))
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the square that is embedded (default: as the checkpoint says)")
    args = _parse(parser, argv)
    size = f"@{args.size}" if args.size else ""
    name = args.name or (args.kind if args.kind == "tabletop" else f"{Path(args.folder).resolve().name}{size}")

    def make() -> Any:
        if args.kind == "tabletop":
            from editr2_jax.tabletop.perception import TabletopFeatures

            return TabletopFeatures()
        if args.kind == "dinov3":
            from editr2_jax import judging

            return judging.jax_dinov3(args.folder, size=args.size)
        from editr2_jax.services.torch_dinov3 import TorchDinoV3

        return TorchDinoV3(args.folder, device=args.device, size=args.size)

    return _serve(args, name, make)


def _parser(verb: str, about: str | None, kinds: tuple[str, ...]) -> common.Parser:
    try:
        from editr2_jax.services import server_app, server_process
    except ImportError as error:
        raise ValueError(f"{verb} needs a web server ({error}): pip install 'editr2_jax[serve]'.") from error
    parser = common.Parser(verb, about)
    parser.add_argument(
        "--kind", choices=kinds, default=kinds[0], help=f"as a config names them; tabletop: the embedded world's (default: {kinds[0]})"
    )
    parser.add_argument("--folder", metavar="DIR", help="the checkpoint, as Hugging Face publishes it")
    parser.add_argument("--device", default="cpu", help="of PyTorch, as it names it: cpu, cuda:0 (default: cpu)")
    parser.add_argument("--name", help="under which clients ask for it (default: the folder's name and what changes answers)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one, which is printed")
    parser.add_argument("--public", action="store_true", help="let other machines in; takes --token-env")
    parser.add_argument("--token-env", default="", metavar="NAME", help="environment variable that holds the token clients must send")
    for cls in (server_app.Limits, server_process.Patience):
        for field in _told(cls, verb):
            flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
            parser.add_argument(
                flag, type=kind, default=field.default, metavar="N", help=f"{_ABOUT[field.name]} (default: {field.default})"
            )
    return parser


def _told(cls: type, verb: str) -> list[dataclasses.Field]:
    """The settings that mean something to a verb."""
    idle = ("max_pictures", "batch") if verb.endswith("detector") else ("max_phrases", "max_phrase_chars")
    return [field for field in dataclasses.fields(cls) if field.name not in idle]


def _parse(parser: common.Parser, argv: list[str]) -> argparse.Namespace:
    args = parser.parse(argv)
    if (args.kind == "tabletop") == bool(args.folder):
        parser.error("--kind=tabletop takes no --folder" if args.folder else f"--kind={args.kind} wants the --folder of its checkpoint")
    idle = {"tabletop": ("threshold", "size", "device"), "dinov3": ("device",)}.get(args.kind, ())
    if given := [name for name in idle if hasattr(args, name) and getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--kind={args.kind} takes no --{given[0]}")
    return args


def _serve(args: argparse.Namespace, name: str, make: Callable[[], Any]) -> int:
    from editr2_jax.services import server_app, server_process

    limits, patience = (
        cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls) if hasattr(args, field.name)})
        for cls in (server_app.Limits, server_process.Patience)
    )
    token = server_process.token_of(args.token_env)
    bound = server_process.bind(args.host, args.port, public=args.public, token=token)  # what is wrong is told before a model is read
    model = make()
    build = server_app.detector_app if hasattr(model, "detect") else server_app.features_app
    app = build(model, name=name, token=token, limits=limits)
    server_process.run(app, bound, patience, say=lambda url: print(f"{name} at {url}", flush=True))
    return 0
