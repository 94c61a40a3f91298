import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import advantages

NAN = float("nan")


jitted = jax.jit(advantages.group_relative, static_argnames=("grouping", "std"))


def values(reward, group, **options):
    return np.asarray(jitted(jnp.array(reward), jnp.array(group), **options).value)


def test_two_groups_by_hand():
    value = values([[0.0], [1.0], [0.5], [0.5]], [7, 7, 3, 3], std="group")
    np.testing.assert_allclose(value[:, 0], [-0.5 / 0.5001, 0.5 / 0.5001, 0, 0], rtol=1e-6)
    value = values([[0.0], [1.0], [0.5], [0.5]], [7, 7, 3, 3], std="global")
    np.testing.assert_allclose(value[:, 0], np.array([-0.5, 0.5, 0, 0]) / (np.sqrt(0.125) + 1e-4), rtol=1e-6)


def test_a_dialogue_pools_turns_and_a_turn_does_not():
    reward, group = [[1.0, 0.0], [1.0, 0.0]], [0, 0]
    np.testing.assert_allclose(
        values(reward, group, grouping="dialogue", std="group"), np.array(reward) * 2 / 1.0002 - 1 / 1.0002, rtol=1e-6
    )
    assert not values(reward, group, grouping="dialogue_turn").any()


def test_a_missing_reward_changes_nothing_for_the_others():
    value = values([[0.0], [NAN], [1.0]], [5, 5, 5], std="group")
    np.testing.assert_allclose(value[:, 0], [-0.5 / 0.5001, 0, 0.5 / 0.5001], rtol=1e-6)


def test_nothing_known_and_nothing_that_enters_give_zero():
    out = jitted(jnp.full((2, 2), NAN), jnp.array([0, 0]))
    assert not out.value.any() and not out.known.any() and out.statistics["missing_share"] == 1
    assert all(np.isfinite(v).all() for v in out.statistics.values())
    assert not values([[0.0], [1.0]], [0, 0], mask=jnp.zeros((2, 1), bool)).any()


def test_masked_rewards_are_measured_but_do_not_measure():
    mask = jnp.array([[True], [True], [False]])
    value = values([[0.0], [1.0], [0.25]], [1, 1, 1], std="group", mask=mask)
    np.testing.assert_allclose(value[:, 0], np.array([-0.5, 0.5, -0.25]) / 0.5001, rtol=1e-6)


def test_equal_rewards_give_exactly_zero_whatever_their_bits():
    assert not values([[0.1], [0.1], [0.1], [0.7]], [0, 0, 0, 1], std="group").any()


def test_statistics_count_pools():
    out = jitted(jnp.array([[0.0, NAN], [1.0, NAN], [0.5, 0.5], [0.5, 0.7]]), jnp.array([9, 9, 4, 4]), grouping="dialogue_turn")
    # pools with rewards: (9, turn 0), (4, turn 0), (4, turn 1); the second has no spread
    np.testing.assert_allclose(out.statistics["zero_variance_share"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(out.statistics["missing_share"], 0.25)
    np.testing.assert_allclose(out.statistics["reward_mean_per_turn"], [0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(out.statistics["advantage_mean_per_turn"], [0, 0], atol=1e-6)


def test_group_ids_far_apart_but_equal_in_float32_stay_apart():
    assert not values([[0.0], [1.0]], [16777216, 16777217], std="group").any()


@st.composite
def batches(draw):
    rows, turns = draw(st.sampled_from([(1, 1), (6, 3)]))  # few shapes: each is a compilation
    number = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
    reward = draw(st.lists(st.lists(number, min_size=turns, max_size=turns), min_size=rows, max_size=rows))
    return reward, draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))


modes = st.fixed_dictionaries({"grouping": st.sampled_from(advantages.GROUPINGS), "std": st.sampled_from(advantages.SPREADS)})


@given(batches(), modes)
def test_advantages_are_finite_centred_in_their_pool_and_zero_where_missing(batch, mode):
    reward, group = batch
    value = values(reward, group, **mode)
    assert np.isfinite(value).all() and not value[np.isnan(reward)].any()
    for one in set(group):
        mine = value[np.array(group) == one]
        np.testing.assert_allclose(mine.sum(axis=0 if mode["grouping"] == "dialogue_turn" else None), 0, atol=1e-4)


@given(batches(), modes, st.randoms())
def test_the_order_and_the_names_of_groups_do_not_matter(batch, mode, random):
    reward, group = np.array(batch[0], np.float32), np.array(batch[1])
    order = np.array(random.sample(range(len(group)), len(group)))
    here = values(reward, group, **mode)
    np.testing.assert_allclose(values(reward[order], 1000003 * group[order] - 7, **mode), here[order], atol=1e-5)


@pytest.mark.parametrize(
    ("reward", "group", "options", "message"),
    [
        (np.zeros(3), np.zeros(3, int), {}, "wants reward"),
        (np.zeros((3, 1)), np.zeros(2, int), {}, "wants reward"),
        (np.zeros((2, 1)), np.zeros(2), {}, "give integers"),
        (np.zeros((2, 1)), np.zeros(2, int), {"grouping": "turn"}, "choose one of dialogue, dialogue_turn"),
        (np.zeros((2, 1)), np.zeros(2, int), {"std": "batch"}, "choose one of group, global"),
        (np.zeros((2, 1)), np.zeros(2, int), {"mask": np.ones(2, bool)}, "must agree"),
    ],
)
def test_what_cannot_be_grouped_is_refused(reward, group, options, message):
    with pytest.raises(ValueError, match=message):
        advantages.group_relative(reward, group, **options)


def tracker(case) -> bool:
    return "PerPromptStatTracker" in case.function


@golden.each("advantage", tracker)
def test_advantages_match_flow_grpos_tracker(case, bits):
    args = case.args
    reward, group = golden.put(case["reward"], bits).reshape(-1, 1), jnp.asarray(case["group"])
    std = "global" if args["global_std"] else "group"
    flat = jax.jit(lambda reward, group: advantages.group_relative(reward, group, std=std, eps=args["epsilon"]).value)(reward, group)
    golden.agree(flat, case, "advantage", bits)


@golden.each("advantage", lambda case: tracker(case) and "turns" in case.args)
def test_groupings_of_sessions_match_flow_grpos_tracker(case, bits):
    """The layout is (dialogue, rollout, turn); the key's own pattern says whether turns share a mean."""
    args = case.args
    keys = case["group"].reshape(args["conversations"] * args["group_size"], args["turns"])
    grouping = "dialogue" if np.all(keys == keys[:, :1]) else "dialogue_turn"
    out = advantages.group_relative(
        golden.put(case["reward"], bits).reshape(keys.shape), jnp.asarray(keys[:, 0]), grouping=grouping, std="global", eps=args["epsilon"]
    )
    golden.agree(out.value.reshape(-1), case, "advantage", bits)
    if grouping == "dialogue_turn":
        np.testing.assert_allclose(out.statistics["advantage_mean_per_turn"], 0, atol=1e-5)
