"""The mesh: sizes, layouts, where logical axes lie, and what is refused because it does not divide."""

import contextlib
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from editr2_jax import assemble
from editr2_jax.cli import common
from editr2_jax.models.bagel import config as sizes
from editr2_jax.runtime import mesh
from editr2_jax.runtime.mesh import Layout, MeshConfig

ROOT = Path(__file__).parents[2]


def _layout(name: str, **sizes: int) -> Layout:
    """A layout over a mesh of any size: only its shape is looked at."""
    return Layout(types.SimpleNamespace(shape=dict.fromkeys(mesh.AXES, 1) | sizes), name)


def test_the_mesh_holds_all_devices_on_named_automatic_axes():
    made = mesh.make()
    assert made.axis_names == mesh.AXES and made.size == jax.device_count()
    assert made.axis_types == (AxisType.Auto,) * len(mesh.AXES)


def test_an_axis_of_minus_one_takes_what_is_left():
    assert MeshConfig(tensor=4).sizes(64) == (1, 16, 4, 1)
    assert MeshConfig(data=2, fsdp=8, tensor=1).sizes(16) == (2, 8, 1, 1)


def test_sizes_that_do_not_multiply_to_the_devices_are_refused():
    with pytest.raises(ValueError, match="the mesh data 1 x fsdp 3 x tensor 1 x sequence 1 does not hold 8 devices"):
        MeshConfig(fsdp=3).sizes(8)
    with pytest.raises(ValueError, match="does not hold 8 devices"):
        MeshConfig(tensor=3).sizes(8)
    with pytest.raises(ValueError, match="-1 to at most one axis"):
        MeshConfig(data=-1)
    with pytest.raises(ValueError, match="MeshConfig.train is 'zero'; choose one of fsdp, tensor, resident"):
        MeshConfig(train="zero")


@pytest.mark.parametrize(
    ("name", "weight", "rows"),
    [
        ("fsdp", PartitionSpec(None, ("fsdp", "tensor"), None), PartitionSpec(("fsdp", "tensor"))),
        ("tensor", PartitionSpec(None, "fsdp", "tensor"), PartitionSpec("fsdp")),
        ("resident", PartitionSpec(None, None, "tensor"), PartitionSpec("fsdp")),
    ],
)
def test_a_layout_says_where_weights_and_rows_lie(name, weight, rows):
    layout = _layout(name, fsdp=16, tensor=4)
    assert layout.spec("layers", "width", "heads") == weight
    assert layout.spec("batch") == rows


def test_without_axes_every_device_has_a_copy():
    placed = jax.device_put(np.arange(3), Layout(mesh.make(), "fsdp").sharding())
    assert placed.sharding.is_fully_replicated


def test_a_constraint_names_the_leading_axes_of_every_leaf():
    layout = Layout(mesh.make(), "fsdp")
    told = jax.jit(lambda tree: layout.constrain(tree, "batch", None))({"a": np.ones((2, 3, 4)), "b": np.ones(2)})
    assert told["a"].shape == (2, 3, 4) and told["b"].shape == (2,)
    assert mesh.constrain(None, told, "batch") is told


def test_an_unknown_axis_is_named():
    with pytest.raises(ValueError, match="layout 'fsdp': unknown logical axis 'rows'; known are layers"):
        _layout("fsdp").spec("rows")


def test_a_size_that_devices_cannot_share_is_refused():
    layout = _layout("fsdp", fsdp=2, tensor=2)
    layout.check_divides("step.rows", "batch", 8)
    with pytest.raises(ValueError, match=r"step.rows is 6, which layout 'fsdp' cuts along 'batch' into 4 pieces \(data 1 x fsdp 2 x"):
        layout.check_divides("step.rows", "batch", 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step.rows": "48", "data.sessions": "16"}, ""),
        (
            {"step.rows": "64", "data.sessions": "16"},
            r"a batch of 10 groups of 6 rollouts \(data.group in step.rows=64\) is 60, .* into 16 pieces",
        ),
        ({"step.rows": "48", "data.sessions": "12"}, r"a step's last batch, of 4 groups of 6 rollouts \(data.sessions=12\) is 24, .* 16"),
        ({"step.rows": "96", "data.sessions": "4"}, r"a batch of 4 groups of 6 rollouts .* is 24"),
        ({"step.rows": "48", "data.sessions": "16", "evaluate.rows": "24"}, "evaluate.rows is 24"),
    ],
)
def test_batches_of_whole_groups_must_share_the_devices(settings, message):
    """Else every device would do the work of all, without a word."""
    told = {"data.group": "6", "evaluate.rows": "48"} | settings
    config = common.load_config(str(ROOT / "configs/tabletop_edit_r2.py"), list(told.items()))
    layouts = mesh.Layouts(**dict.fromkeys(("train", "rollout", "words"), _layout("fsdp", fsdp=16)))
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        assemble.refuse_indivisible(config, layouts, sizes.bagel_7b())


def test_rows_that_every_device_holds_whole_are_counted():
    layout = _layout("fsdp", fsdp=2, tensor=2)
    assert layout.repeated_share([16, 12, 6, 6]) == 0.3 and layout.repeated_share([8]) == 0.0
    assert _layout("fsdp").repeated_share([7, 5]) == 0.0
