import golden_vectors as golden
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import policy_average
from editr2_jax.rl.policy_average import Schedule

KINDS = tuple(policy_average._DECAYS)


@golden.each("ema", lambda case: "decay_type0" in case)
def test_old_policies_follow_as_diffusion_nft_s(case, bits):
    for theirs, ours in {"decay_type0": "copy", "decay_type1": "ramp", "decay_type2": "delayed"}.items():
        np.testing.assert_allclose([Schedule(kind=ours).at(int(k)) for k in case["step"]], case[theirs], rtol=1e-12)
    old, policy = golden.put(case["old_param"], bits), golden.put(case["cur_param"], bits)
    mixed = policy_average.mix({"w": old}, {"w": policy}, case.args["update_decay"])["w"]
    golden.agree(mixed, case, "new_old_param", bits)


@golden.each("ema", lambda case: "warmup_cosine" in case)
def test_schedules_are_flow_factory_s(case, bits):
    args = case.args
    numbers = {"decay": args["decay"], "initial": args["initial_decay"], "warmup": args["warmup_steps"], "total": args["total_steps"]}
    delayed = {"flat": args["flat_steps"], "rate": args["ramp_rate"], "cap": args["decay"]}
    for theirs in ("constant", "power", "linear", "piecewise_linear", "cosine", "warmup_cosine"):
        schedule = Schedule(kind={"piecewise_linear": "delayed"}.get(theirs, theirs), **numbers, **delayed)
        np.testing.assert_allclose([schedule.at(int(k)) for k in case["step"]], case[theirs], rtol=1e-9, atol=1e-12)


@given(st.sampled_from(KINDS), st.integers(0, 3000))
def test_a_decay_is_a_share(kind, count):
    assert 0 <= Schedule(kind=kind, decay=0.995, initial=0.2).at(count) <= 1


def test_an_average_keeps_its_type_and_is_mixed_in_float32():
    """Of 1 and 2 in bfloat16, 1e-2 of the way lies between two neighbours: float32 decides which."""
    mixed = policy_average.mix(jnp.ones(1, jnp.bfloat16), 2 * jnp.ones(1, jnp.bfloat16), 0.99)
    assert mixed.dtype == jnp.bfloat16 and float(mixed[0]) == 1.0078125


def test_a_schedule_that_does_not_exist_is_refused():
    for settings, message in (
        ({"kind": "fast"}, "choose off, copy, ramp"),
        ({"clock": "epochs"}, "one of updates, steps"),
        ({"decay": 2.0}, "in"),
    ):
        with pytest.raises(ValueError, match=message):
            Schedule(**settings)
