"""train: run a config; the same command again resumes; SIGTERM saves and exits 0."""

from __future__ import annotations

from pathlib import Path

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax train --config=FILE.py[:VARIANT] --workdir=DIR [--config.a.b=VALUE ...]`

    Several processes make one run: the same command on every host, with --processes=auto where the platform tells them apart (TPU VMs,
    GKE, SLURM), else with --coordinator, --processes and --process. The workdir must be one folder that all of them see. Exit status 75
    where another host was lost: the same command again goes on.
    """
    parser = common.Parser("train", main.__doc__, config=True, workdir=True)
    common.add_hosts(parser)
    args = parser.parse(argv)
    from editr2_jax import assemble, experiment
    from editr2_jax.runtime import signals
    from editr2_jax.runtime.hosts import joined

    told = lambda text: print(text, flush=True)  # noqa: E731
    with signals.stop_flag() as stop_requested:
        local = Path(args.workdir).expanduser()
        stacks = None if "://" in args.workdir else local  # made where it is needed: the first start is told about like any other
        with joined(assemble.hosts(args.config, **common.which_host(args)), stacks=stacks) as here:
            if here.first:
                within_s = experiment.lock_patience(args.config, here)
                common.claim_workdir(args.workdir, args.config, may_change=experiment.RESUMABLE, within_s=within_s)
            here.barrier("the claim on the workdir")
            result = experiment.train(args.config, local.absolute(), say=told, hosts=here, stop_requested=stop_requested)
    if result:
        print(result)
    return 0
