"""Devices to compile for: a named TPU topology, without the TPU, or the devices at hand.

libtpu compiles for chips that are not there; the variables below keep it from looking for them. They must stand before libtpu is loaded,
hence before the first use of a jax device. Names are GEN:AxB[xC] (v5e:4x4, v5p:2x2x2); cloud products count otherwise: v5litepod-64 is
v5e:8x8, v5p-16 has 16 cores on 8 chips and is v5p:2x2x2, v6e-16 is v6e:4x4.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
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
_NAME = re.compile(r"(v4|v5e|v5p|v6e|tpu7x):(\d+(?:x\d+)+)")
_DIMENSIONS = {
    "v4": 3,
    "v5e": 2,
    "v5p": 3,
    "v6e": 2,
    "tpu7x": 3,
}  # in which chips stand; libtpu takes others, too, and makes slices that nobody has


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
    if not (found := _NAME.fullmatch(name)):
        raise ValueError(f"--topology={name}: give GENERATION:AxB[xC], such as v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1, or here.")
    generation, sizes = found[1], found[2].split("x")
    if len(sizes) != _DIMENSIONS[generation]:
        wanted = {2: "two dimensions, such as 4x4", 3: "three dimensions, such as 2x2x1"}[_DIMENSIONS[generation]]
        raise ValueError(f"--topology={name}: chips of {generation} stand in {wanted}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"--topology={name}: libtpu, which compiles for TPUs, is not installed: pip install 'editr2_jax[plan]'.")
    os.environ.update({key: value for key, value in _ALONE.items() if key not in os.environ})
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # whatever is at hand stays free
    from jax.experimental import topologies

    try:
        alone = {"chips_per_host_bounds": [1, 1, 1]} if set(sizes) == {"1"} else {}
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **alone)
    except Exception as error:  # whatever the plugin raises
        why = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"--topology={name}: libtpu {importlib.metadata.version('libtpu')} does not know it ({why}); give a slice that there is."
        ) from error
    return Topology(name=name, generation=generation, devices=described.devices, platform="tpu")
