"""Every parameter has logical axes, and what a mesh does not divide is refused by name."""

import types

import jax.numpy as jnp
import pytest
from flax import nnx

from editr2_jax.models import logical_axes, lora
from editr2_jax.models.bagel import bagel, config
from editr2_jax.porting import rules
from editr2_jax.runtime import mesh
from editr2_jax.runtime.mesh import Layout


def _whole_7b():
    def build():
        model = bagel.Bagel(config.bagel_7b(), rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
        lora.attach(model, lora.LoraConfig(), key=nnx.Rngs(0).params())
        return model

    return nnx.state(nnx.eval_shape(build))


def test_every_parameter_of_7b_and_its_adapter_has_axes_for_each_dimension():
    layout = Layout(mesh.make(), "fsdp")
    state = _whole_7b()
    placed = logical_axes.shardings(state, layout)
    where = dict(nnx.to_flat_state(placed))
    for path, leaf in nnx.to_flat_state(state):
        axes = logical_axes.of(".".join(map(str, path)))
        assert len(axes) in (0, leaf.ndim), path
        assert where[path].get_value() == layout.sharding(*axes), path


def test_large_weights_are_cut_in_every_layout_that_learns():
    state = _whole_7b()
    whole = Layout(types.SimpleNamespace(shape={"data": 1, "fsdp": 16, "tensor": 4, "sequence": 1}), "fsdp")
    for path, leaf in nnx.to_flat_state(state):
        if leaf.size > 20e6:
            name = ".".join(map(str, path))
            for layout in (whole, Layout(whole.mesh, "tensor")):
                assert any(layout.parts(axis) > 1 for axis in logical_axes.of(name)), name


def test_names_agree_with_those_of_the_porting_tables():
    state = nnx.state(bagel.abstract(config.tabletop()))
    paths = list(rules.leaves(state))
    assert paths and all(isinstance(logical_axes.of(path), tuple) for path in paths)


def test_an_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="no row of models/logical_axes.py names the parameter decoder.extra"):
        logical_axes.of("decoder.extra")


def test_a_width_that_the_mesh_does_not_divide_is_refused_by_name():
    odd = Layout(types.SimpleNamespace(shape={"data": 1, "fsdp": 5, "tensor": 1, "sequence": 1}), "fsdp")
    with pytest.raises(ValueError, match="axis 'width' of decoder.embed is 3584"):
        logical_axes.placing(odd)("decoder.embed", (152064, 3584))
