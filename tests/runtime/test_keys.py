"""Random streams: stable, separate, and the same inside jit."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from editr2_jax.runtime import keys


def bits(key):
    return tuple(int(word) for word in jax.random.key_data(key))


def test_a_stream_is_the_same_in_every_process():
    program = "import jax; from editr2_jax.runtime import keys; print(*jax.random.key_data(keys.at(7, 'rollout', 3)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, printed.split())) == bits(keys.at(7, "rollout", 3)) == (2860657257, 2793325049)


def test_streams_do_not_meet():
    streams = [
        (0, "rollout", 1),
        (1, "rollout", 1),
        (0, "rollout", 2),
        (0, "window", 1),
        (0, "rollout", "1"),
        (0, "rollout", 1, 0),
        (0, 1, "rollout"),
        (0, "roll", "out", 1),
    ]
    assert len({bits(keys.at(*stream)) for stream in streams}) == len(streams)


def test_a_traced_step_gives_the_same_key():
    traced = jax.jit(lambda step: jax.random.key_data(keys.at(3, "noise", step, "turn", 2)))(5)
    np.testing.assert_array_equal(traced, jax.random.key_data(keys.at(3, "noise", 5, "turn", 2)))


def test_the_key_is_typed():
    assert jax.dtypes.issubdtype(keys.at(0, "x").dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("stream", [(0,), (-1, "x"), (2**32, "x"), (0, "x", -1), (0, "x", 2**32)])
def test_what_would_alias_another_stream_is_refused(stream):
    with pytest.raises(ValueError, match=r"keys\.at"):
        keys.at(*stream)
