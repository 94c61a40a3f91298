"""The mesh: logical axes find their place, and what does not divide is refused."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from editr2_jax.runtime import mesh


def test_one_data_axis_over_all_devices():
    made = mesh.make()
    assert made.axis_names == ("data",) and made.size == jax.device_count() and made.axis_types == (AxisType.Auto,)


def test_rows_are_cut_along_data_and_the_rest_is_whole():
    spec = mesh.sharding(mesh.make(), "batch", "width", None).spec
    assert tuple(spec) == ("data", None, None)


def test_without_axes_every_device_has_a_copy():
    placed = jax.device_put(np.arange(3), mesh.sharding(mesh.make()))
    assert placed.sharding.is_fully_replicated


def test_an_unknown_axis_is_named():
    with pytest.raises(ValueError, match="unknown logical axis 'rows'; known are batch"):
        mesh.sharding(mesh.make(), "rows")


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch):
    four = types.SimpleNamespace(shape={"data": 4})
    monkeypatch.setattr(mesh, "sharding", lambda _, axis: types.SimpleNamespace(spec=(mesh.LOGICAL_AXES[axis],)))
    mesh.check_divides(four, "data.batch", "batch", 8)
    mesh.check_divides(four, "model.width", "width", 7)
    with pytest.raises(ValueError, match=r"data.batch is 6, which 4 devices along 'batch' cannot share evenly; make it a multiple of 4"):
        mesh.check_divides(four, "data.batch", "batch", 6)
