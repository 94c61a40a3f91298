"""Random streams: stable, separate, and the same inside jit."""

import subprocess
import sys

import golden_vectors as golden
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


def test_a_text_s_seed_by_hand():
    """SHA-256 of "" begins e3 b0 c4 42; the base is added, and 31 bits are kept."""
    assert keys.text_seed("", 0) == 0xE3B0C442 - 2**31
    assert keys.text_seed("", 7) == keys.text_seed("", 0) + 7
    assert keys.text_seed("a", 0) != keys.text_seed("b", 0)


@golden.each("seed")
def test_the_seeds_of_edit_r2(case, bits):
    assert [keys.text_seed(text, case.args["base_seed"]) for text in case.args["keys"]] == case["seed"].tolist()
