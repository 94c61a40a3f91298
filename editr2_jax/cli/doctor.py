"""doctor: examine a run before step 0: ratios, samplers, rewards, masks, learning, arithmetic; a verdict per check and what to do."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editr2_jax.cli import common

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from editr2_jax.runtime import preflight

_WIDTH = 140


def main(argv: list[str]) -> int:
    """`python -m editr2_jax doctor --config=FILE.py[:VARIANT] [--workdir=RUN] [--only=CHECK,...] [--json=FILE] [--config.a.b=VALUE ...]`

    With --workdir the last checkpoint of that run is examined, by default under its own config. Exit status 1 where a check fails.

    `... doctor --preflight --config=... --workdir=RUN [--coordinator=HOST:PORT --processes=N --process=I] [--hosts=NAME,...]`
    `    [--expect_devices=K] [--endpoints=URL,...]`

    Is all there that the run needs, on this host and between the hosts: without loading a model, before anything is paid for.
    """
    parser = common.Parser("doctor", main.__doc__)
    parser.takes_config = True
    parser.add_argument("--config", metavar="FILE.py[:VARIANT]", help="what to examine; by default the config of --workdir")
    parser.add_argument("--workdir", metavar="RUN", help="a run that has started, whose last checkpoint is examined; nothing is trained")
    parser.add_argument("--only", default="", metavar="CHECK,...", help="some of the checks")
    parser.add_argument("--json", metavar="FILE", help="also write the findings there")
    _add_preflight(parser)
    overrides, rest = common.split_overrides(argv)
    parser.takes_config = False
    args = parser.parse(rest)
    _check_preflight(args)
    if args.config is None and args.workdir is None:
        raise ValueError("doctor wants --config=FILE.py (an untrained model), or --workdir=RUN (the last checkpoint of a run), or both.")
    out = Path(args.json).expanduser() if args.json else None
    if out and not out.parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {out.parent}; make it first.")
    if args.preflight:
        return _preflight(args, common.load_config(args.config, overrides), out)
    run = Path(args.workdir).expanduser() if args.workdir else None
    if run and args.config and not (run / "config.json").exists():
        raise ValueError(
            f"--workdir={args.workdir}: no run has started there (it has no config.json); leave it out for an untrained model."
        )
    config = common.load_config(args.config, overrides) if args.config else common.saved_config(run)
    for name, value in () if args.config else overrides:
        common.override(config, name, value)
    from editr2_jax import experiment
    from editr2_jax.doctor import text
    from editr2_jax.doctor.finding import Opinion
    from editr2_jax.runtime import workdir

    findings, only = [], [name for name in args.only.split(",") if name]
    for found in experiment.examine(config, run=run, only=only, say=lambda text: print(text, flush=True)):
        findings.append(found)
        print("\n".join(text.lines(found)), flush=True)
    print("\n".join(text.summary(findings)))
    if out:
        workdir.write_json(out, {"findings": text.plain(findings), "versions": workdir.versions()})
    return int(any(found.opinion is Opinion.FAIL for found in findings))


def _add_preflight(parser: common.Parser) -> None:
    group = parser.add_argument_group("with --preflight")
    group.add_argument(
        "--preflight", action="store_true", help="ask for what the run needs instead: versions, hosts, files, judges, devices"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 will listen; the processes meet there for a moment")
    group.add_argument("--processes", type=int, metavar="N", help="how many processes; each host runs one")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--hosts", metavar="NAME,...", help="the host of each process: its name must have an address")
    group.add_argument("--expect_devices", type=int, metavar="K", help="how many devices this host must have")
    group.add_argument("--endpoints", metavar="URL,...", help="judges that must answer")
    group.add_argument("--token_env", metavar="NAME", help="the environment variable that holds the judges' token")
    group.add_argument("--free_gb", type=float, metavar="GB", help="room wanted in the workdir; by default 5")
    group.add_argument("--deadline", type=float, metavar="SECONDS", help="for the other processes, and for the devices; by default 300")


def _check_preflight(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together."""
    names = ("coordinator", "processes", "process", "hosts", "expect_devices", "endpoints", "token_env", "free_gb", "deadline")
    given = [f"--{name}" for name in names if getattr(args, name) is not None]
    if given and not args.preflight:
        raise ValueError(f"{given[0]} goes with --preflight, which is not there; add it, or leave {given[0]} out.")
    if args.preflight and not (args.config and args.workdir):
        raise ValueError("--preflight wants --config=FILE.py and --workdir=DIR, those of the run that is to start.")
    if args.preflight and args.only:
        raise ValueError("--only chooses among the doctor's other checks; leave it out with --preflight.")
    together = [value is not None for value in (args.coordinator, args.processes, args.process)]
    if any(together) and not all(together):
        raise ValueError(
            "--coordinator=HOST:PORT, --processes=N and --process=I go together; give all three, or none for a single process."
        )
    if args.token_env and not os.environ.get(args.token_env):
        raise ValueError(f"--token_env={args.token_env}: the environment has no such variable; export it first.")


def _preflight(args: argparse.Namespace, config: ConfigDict, out: Path | None) -> int:
    found = []
    for finding in _examined(args, config):
        found.append(finding)
        head = f"{'ok' if finding.ok else 'fail':<4}  {finding.name:<11}  "
        print("\n".join(textwrap.wrap(head + finding.evidence, _WIDTH, subsequent_indent=" " * len(head))), flush=True)
    ill = [finding for finding in found if not finding.ok]
    print(f"preflight: {len(found) - len(ill)} ok, {len(ill)} fail." + (" What to do:" if ill else " The run can start."))
    for finding in ill:
        print("\n".join(textwrap.wrap(f"{finding.name}: {finding.advice}", _WIDTH, subsequent_indent="      ")))
    if out:
        from editr2_jax.runtime import workdir

        workdir.write_json(out, {"findings": [dataclasses.asdict(finding) for finding in found], "versions": workdir.versions()})
    return int(bool(ill))


def _checkpoint(folder: Any) -> preflight.Finding:
    """Of either layout: every file, or every parameter, by its head."""
    from editr2_jax.porting import byte_ranges, converted
    from editr2_jax.runtime import preflight

    if converted.is_here(folder):
        try:
            evidence = f"{folder}: {len(converted.opened(folder))} converted parameters"
        except ValueError as error:
            return preflight.Finding(name="checkpoint", ok=False, evidence=str(error), advice="Copy it again, or convert it again.")
        return preflight.Finding(name="checkpoint", ok=True, evidence=evidence)
    if not byte_ranges.is_local(folder):
        return preflight.Finding(name="checkpoint", ok=True, evidence=f"{folder} answers")
    return preflight.checkpoint(folder)


def _examined(args: argparse.Namespace, config: ConfigDict) -> Iterator[preflight.Finding]:
    """The findings as they come. What can be said at once stands first; devices last, when all hosts are known to be there."""
    from editr2_jax.runtime import preflight

    about, deadline = importlib.metadata.metadata("editr2_jax"), args.deadline or 300.0
    yield preflight.versions(about.get_all("Requires-Dist") or (), needs_python=about["Requires-Python"])
    yield preflight.workdir(args.workdir, free_gb=5.0 if args.free_gb is None else args.free_gb)
    from editr2_jax import assemble, resuming

    try:
        folder = assemble.checkpoint_folder(resuming.on_own_base(config, Path(args.workdir).expanduser()).model.checkpoint)
    except ValueError as error:
        yield preflight.Finding(name="checkpoint", ok=False, evidence=str(error), advice="Copy it to every host, or mount it there.")
    else:
        yield _checkpoint(folder)
    token = os.environ[args.token_env] if args.token_env else ""
    for url in filter(None, (args.endpoints or "").split(",")):
        yield preflight.endpoint(url.strip(), token=token)
    names = [name for name in (args.hosts or "").split(",") if name]
    if names:
        yield preflight.hosts(names, processes=args.processes or 1)
    if args.coordinator:
        yield preflight.rendezvous(args.coordinator, processes=args.processes, process=args.process, deadline=deadline, names=names)
    yield preflight.devices(expected=args.expect_devices, deadline=deadline)
