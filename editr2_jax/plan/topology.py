"""Devices to compile for: a named TPU topology, without the TPU, or the devices at hand.

libtpu compiles for chips that are not there; the variables below keep it from looking for them. They must stand before libtpu is loaded,
hence before the first use of a jax device. Names are GEN:AxB[xC] (v5e:4x4, v5p:2x2x2); cloud products count otherwise: v5litepod-64 is
v5e:8x8, v5p-16 has 16 cores on 8 chips and is v5p:2x2x2, v6e-16 is v6e:4x4.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import Any

HERE = "here"
_ALONE = {  # libtpu on a machine without a TPU
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
}
_NAME = re.compile(r"(v4|v5e|v5p|v6e|tpu7x):\d+x\d+(x\d+)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices that programs are compiled for."""

    name: str
    generation: str  # as runtime/chips.py names it
    devices: Sequence[Any]
    platform: str  # cpu, tpu, gpu

    @property
    def compiler(self) -> str:
        """What compiled, for the record."""
        version = importlib.metadata.version
        return f"jax {version('jax')}" + (f", libtpu {version('libtpu')}" if self.platform == "tpu" and self.name != HERE else "")


def of(name: str) -> Topology:
    """The topology of a name, or of the devices at hand for "here".

    Raises ValueError for a name that is not one, and where libtpu is missing or does not know the topology.
    """
    import jax

    if name == HERE:
        devices = jax.devices()
        return Topology(name=name, generation=devices[0].device_kind, devices=devices, platform=jax.default_backend())
    if not _NAME.fullmatch(name):
        raise ValueError(f"--topology={name}: give GENERATION:AxB[xC], such as v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1, or here.")
    os.environ.update({key: value for key, value in _ALONE.items() if key not in os.environ})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # a missing libtpu and an unknown shape raise whatever the plugin raises
        why = str(error).strip().partition("\n")[0][:200]
        raise ValueError(f"--topology={name}: it cannot be described ({why}); install libtpu: pip install 'editr2_jax[plan]'.") from error
    return Topology(name=name, generation=name.partition(":")[0], devices=described.devices, platform="tpu")
