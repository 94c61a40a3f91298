"""train: run a config; the same command again resumes; SIGTERM saves and exits 0."""

from __future__ import annotations

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax train --config=FILE.py[:VARIANT] --workdir=DIR [--config.a.b=VALUE ...]`"""
    args = common.Parser("train", __doc__, config=True, workdir=True).parse(argv)
    from editr2_jax import experiment

    workdir = common.claim_workdir(args.workdir, args.config, may_change=experiment.RESUMABLE)
    print(experiment.train(args.config, workdir, say=lambda text: print(text, flush=True)))
    return 0
