import golden_vectors as golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import turn_aggregation

NAN = float("nan")
hows = st.sampled_from(turn_aggregation.AGGREGATES)
turns = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0]), min_size=3, max_size=3)  # one shape: each is a compilation


def aggregate(row, how, counts=None):
    return float(turn_aggregation.aggregate(np.float32([row]), how, counts=None if counts is None else np.array([counts]))[0])


def test_one_rollout_by_hand():
    values = {how: aggregate([1.0, 4.0, 2.0], how) for how in turn_aggregation.AGGREGATES}
    assert values == pytest.approx({"mean": 7 / 3, "sum": 7, "last": 2, "product": 8, "min": 1, "geomean": 2})


def test_one_failure_is_all_for_product_min_and_geomean():
    for how in ("product", "min", "geomean"):
        assert aggregate([1.0, 0.0, 1.0], how) == 0


@given(turns, hows, st.integers(0, 2))
def test_a_missing_turn_is_never_made_up(row, how, place):
    row[place] = NAN
    value = aggregate(row, how)
    assert np.isnan(value) or (how == "last" and place < 2 and value == np.float32(row[2]))


@given(turns, hows, st.lists(st.booleans(), min_size=3, max_size=3))
def test_turns_that_do_not_count_are_as_if_they_were_not(row, how, counts):
    padded = [value if here else NAN for value, here in zip(row, counts, strict=True)]
    left = [value for value, here in zip(row, counts, strict=True) if here]
    value = aggregate(padded, how, counts)
    if not left:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(aggregate(left + [NAN] * (3 - len(left)), how, [True] * len(left) + [False] * (3 - len(left))))


@given(turns)
def test_aggregates_are_ordered(row):
    low, geomean, mean = (aggregate(row, how) for how in ("min", "geomean", "mean"))
    assert low <= geomean + 1e-5 and geomean <= mean + 1e-5
    assert aggregate(row, "sum") == pytest.approx(3 * mean, abs=1e-5)


def test_a_flat_reward_or_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"pass reward\[None\]"):
        turn_aggregation.aggregate(np.ones(3), "mean")
    with pytest.raises(ValueError, match="there is no aggregate 'max'; choose one of mean, sum, last, product, min, geomean"):
        turn_aggregation.aggregate(np.ones((1, 3)), "max")


@golden.each("turn_aggregation")
def test_aggregates_match_their_definition(case, bits):
    for output in case.tensors:
        source, _, how = output.partition("_")
        if how in turn_aggregation.AGGREGATES:
            (reward,) = (value for name, value in case.tensors.items() if name.startswith(f"{source}_") and value.ndim == 2)
            golden.near(
                turn_aggregation.aggregate(golden.put(reward, bits), how), case[output], bits, what=f"{case.name}.{output}", closed=True
            )
