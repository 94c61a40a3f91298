import functools

import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import advantages

NAN = float("nan")


jitted = jax.jit(advantages.group_relative, static_argnames=("grouping", "std", "eps", "eps_mode", "ddof", "trim", "baseline"))


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
    assert not out.value.any() and not out.known.any() and not out.speaks.any()
    assert not values([[0.0], [1.0]], [0, 0], mask=jnp.zeros((2, 1), bool)).any()


def test_masked_rewards_are_measured_but_do_not_measure():
    mask = jnp.array([[True], [True], [False]])
    value = values([[0.0], [1.0], [0.25]], [1, 1, 1], std="group", mask=mask)
    np.testing.assert_allclose(value[:, 0], np.array([-0.5, 0.5, -0.25]) / 0.5001, rtol=1e-6)


def test_equal_rewards_give_exactly_zero_whatever_their_bits():
    assert not values([[0.1], [0.1], [0.1], [0.7]], [0, 0, 0, 1], std="group").any()


def test_pools_without_spread_are_counted():
    """Pools with rewards: (9, turn 0), (4, turn 0), (4, turn 1); the second has no spread."""
    reward, group = jnp.array([[0.0, NAN], [1.0, NAN], [0.5, 0.5], [0.5, 0.7]]), jnp.array([9, 9, 4, 4])
    out = jitted(reward, group, grouping="dialogue_turn")
    share = functools.partial(advantages.zero_variance_share, out, group, grouping="dialogue_turn")
    assert float(share()) == pytest.approx(1 / 3)
    assert float(share(mask=jnp.array([[True, True]] * 2 + [[False, True]] * 2))) == 0, "a pool that nothing entered is none"
    assert float(advantages.zero_variance_share(jitted(reward, group), group, grouping="dialogue")) == 0


@pytest.mark.parametrize("std", advantages.SPREADS)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("baseline", advantages.BASELINES)
def test_a_group_of_one_gets_zero_in_every_way(std, ddof, baseline):
    options = {"std": std, "ddof": ddof, "baseline": baseline}
    assert not values([[0.7], [NAN]], [0, 0], **options).any()
    np.testing.assert_array_equal(np.isfinite(values([[0.7], [0.1], [0.3]], [0, 1, 1], **options)), True)
    assert values([[0.7], [0.1], [0.3]], [0, 1, 1], **options)[0] == 0


def test_a_trimmed_pool_is_measured_without_its_lowest():
    value = values([[0.0], [1.0], [2.0], [3.0], [NAN]], [0] * 5, std="group", ddof=1, trim=0.25)  # 1 of 4 known ones
    np.testing.assert_allclose(value[:, 0], [-2 / 1.0001, -1 / 1.0001, 0, 1 / 1.0001, 0], rtol=1e-6, atol=1e-7)
    assert not values([[0.0], [1.0], [1.0]], [0] * 3, std="none", trim=0.4).any(), "what is left has no spread"
    value = values([[1.0], [2.0], [1.0], [3.0]], [0] * 4, std="group", trim=0.25)
    assert value[0] == value[2], "equal rewards, of which one is cut"


def test_every_pool_is_trimmed_by_itself():
    reward, group = [[0.0, 9.0], [1.0, 8.0], [5.0, 0.0], [6.0, 1.0]], [0, 0, 1, 1]
    per_turn = values(reward, group, grouping="dialogue_turn", std="none", trim=0.5)
    assert not per_turn.any(), "one of two is left, so nothing has spread"
    dialogue = values(reward, group, grouping="dialogue", std="none", trim=0.5)  # 8 and 9 are left, and 5 and 6
    np.testing.assert_allclose(dialogue, [[-8.5, 0.5], [-7.5, -0.5], [-0.5, -5.5], [0.5, -4.5]])


def test_a_floor_blows_noise_up_and_an_additive_eps_does_not():
    noise = [[0.5], [0.5 + 1e-6]]
    floored = values(noise, [0, 0], std="group", eps=1e-6, eps_mode="floor")
    added = values(noise, [0, 0], std="group", eps=1e-4)
    assert np.abs(floored).max() > 0.4 and np.abs(added).max() < 0.01


def test_leaving_one_out_by_hand():
    value = values([[0.0], [0.5], [1.0], [NAN]], [0] * 4, baseline="leave_one_out", std="none")
    np.testing.assert_allclose(value[:, 0], [-0.75, 0.0, 0.75, 0.0])
    mask = jnp.array([[True], [True], [False]])  # who did not enter is measured against all who did
    np.testing.assert_allclose(
        values([[0.0], [1.0], [0.75]], [0] * 3, baseline="leave_one_out", std="none", mask=mask)[:, 0], [-1, 1, 0.25]
    )


def test_group_ids_far_apart_but_equal_in_float32_stay_apart():
    assert not values([[0.0], [1.0]], [16777216, 16777217], std="group").any()


def test_ids_of_64_bits_stay_apart():
    """Cut to 32 bits they would be one group."""
    group = np.array([1, 1 + 2**32], np.int64)
    assert not np.asarray(advantages.group_relative(np.float32([[0.0], [1.0]]), group, std="group").value).any()


@st.composite
def batches(draw):
    rows, turns = draw(st.sampled_from([(1, 1), (6, 3)]))  # few shapes: each is a compilation
    number = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
    reward = draw(st.lists(st.lists(number, min_size=turns, max_size=turns), min_size=rows, max_size=rows))
    return reward, draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))


modes = st.fixed_dictionaries(
    {
        "grouping": st.sampled_from(("dialogue", "dialogue_turn")),  # a trajectory is the second, with one column
        "std": st.sampled_from(advantages.SPREADS),
        "baseline": st.sampled_from(advantages.BASELINES),
    }
)


def assert_no_sum(value, group, mode):
    for one in set(group):
        mine = value[np.array(group) == one]
        np.testing.assert_allclose(mine.sum(axis=0 if mode["grouping"] == "dialogue_turn" else None), 0, atol=1e-4)


@given(batches(), modes)
def test_advantages_are_finite_centred_in_their_pool_and_zero_where_missing(batch, mode):
    reward, group = batch
    value = values(reward, group, **mode)
    assert np.isfinite(value).all() and not value[np.isnan(reward)].any()
    assert_no_sum(value, group, mode)


@given(batches(), modes, st.randoms())
def test_the_order_and_the_names_of_groups_do_not_matter(batch, mode, random):
    reward, group = np.array(batch[0], np.float32), np.array(batch[1])
    order = np.array(random.sample(range(len(group)), len(group)))
    here = values(reward, group, **mode)
    np.testing.assert_allclose(values(reward[order], 1000003 * group[order] - 7, **mode), here[order], atol=1e-5)


@given(batches(), modes, st.sampled_from([0.1, 3.0, 50.0]), st.sampled_from([-2.0, 0.0, 7.0]))
def test_a_scale_cancels_against_a_std_and_a_shift_always_does(batch, mode, scale, shift):
    reward, group = np.array(batch[0], np.float32), batch[1]
    plain, moved = values(reward, group, eps=1e-9, **mode), values(scale * reward + shift, group, eps=1e-9, **mode)
    spread = np.abs(plain) > 1e-3  # rounding may tell apart what was equal
    np.testing.assert_allclose(moved[spread] / (scale if mode["std"] == "none" else 1), plain[spread], rtol=2e-3)


@given(batches(), modes)
def test_what_beats_its_pool_is_pushed_up(batch, mode):
    reward, group = np.array(batch[0], np.float32), np.array(batch[1])
    value = values(reward, group, **mode)
    for b, t in np.ndindex(value.shape):
        pool = reward[group == group[b]] if mode["grouping"] == "dialogue" else reward[group == group[b], t]
        gap = reward[b, t] - np.nanmean(pool) if not np.isnan(reward[b, t]) else 0
        assert abs(gap) < 1e-5 or np.sign(value[b, t]) == np.sign(gap)


@given(batches(), modes)
def test_a_group_that_nobody_judged_learns_nothing_and_changes_nothing_for_the_others(batch, mode):
    reward, group = np.array(batch[0], np.float32), np.array(batch[1])
    unjudged = np.where((group == group[0])[:, None], NAN, reward)
    value = values(unjudged, group, **mode)
    assert np.isfinite(value).all() and not value[group == group[0]].any()
    if mode["std"] != "global":
        np.testing.assert_allclose(value[group != group[0]], values(reward, group, **mode)[group != group[0]], atol=1e-5)
    assert not values(np.full_like(reward, NAN), group, trim=0.34).any()


@pytest.mark.parametrize(
    ("reward", "group", "options", "message"),
    [
        (np.zeros(3), np.zeros(3, int), {}, "wants reward"),
        (np.zeros((3, 1)), np.zeros(2, int), {}, "wants reward"),
        (np.zeros((2, 1)), np.zeros(2), {}, "give integers"),
        (np.zeros((2, 1)), np.zeros(2, int), {"grouping": "turn"}, "choose one of dialogue, dialogue_turn, trajectory"),
        (np.zeros((2, 1)), np.zeros(2, int), {"std": "batch"}, "choose one of group, global, none"),
        (np.zeros((2, 1)), np.zeros(2, int), {"baseline": "median"}, "choose one of mean, leave_one_out"),
        (np.zeros((2, 1)), np.zeros(2, int), {"eps_mode": "max"}, "choose one of additive, floor"),
        (np.zeros((2, 1)), np.zeros(2, int), {"eps": 0.0}, "eps is 0.0; give a positive number"),
        (np.zeros((2, 1)), np.zeros(2, int), {"ddof": 2}, "ddof is 2; give 0"),
        (np.zeros((2, 1)), np.zeros(2, int), {"trim": 1.0}, "trim is 1.0; give a share"),
        (np.zeros((2, 1)), np.zeros(2, int), {"trim": 0.3, "baseline": "leave_one_out"}, "tell equal rewards apart .*set trim=0"),
        (np.zeros((2, 3)), np.zeros(2, int), {"grouping": "trajectory"}, "aggregate the turns first"),
        (np.zeros((2, 1)), np.zeros(2, int), {"mask": np.ones(2, bool)}, "must agree"),
    ],
)
def test_what_cannot_be_grouped_is_refused(reward, group, options, message):
    with pytest.raises(ValueError, match=message):
        advantages.group_relative(reward, group, **options)


TUNIX = {  # its functions take no settings
    "compute_advantages": {"std": "group", "ddof": 1, "eps": 1e-6},
    "compute_rloo_advantages": {"std": "none", "baseline": "leave_one_out"},
    "compute_drgrpo_advantages": {"std": "none"},
}


def settings(case) -> dict:
    """Of a recorded case."""
    args = case.args
    if "epsilon" not in args:
        return TUNIX[case.function.split()[-1]]
    std = "none" if not args.get("normalise", True) else "global" if args.get("global_std", False) else "group"
    return {"std": std, "ddof": args["ddof"], "eps": args["epsilon"], "trim": args.get("trimmed_ratio", 0.0)}


def groups(case) -> np.ndarray:
    """Recorded, or runs of one length."""
    return case["group"] if "group" in case else np.arange(len(case["reward"])) // case.args["num_generations"]


@golden.each("advantage")
def test_every_source_s_advantages_come_from_one_function(case, bits):
    reward, group = golden.put(case["reward"], bits).reshape(-1, 1), jnp.asarray(groups(case))
    golden.agree(jitted(reward, group, grouping="trajectory", **settings(case)).value, case, "advantage", bits)


@golden.each("advantage", lambda case: "turns" in case.args)
def test_groupings_of_sessions_match_flow_grpos_tracker(case, bits):
    """The layout is (dialogue, rollout, turn); the key's own pattern says whether turns share a mean."""
    args = case.args
    keys = case["group"].reshape(args["conversations"] * args["group_size"], args["turns"])
    grouping = "dialogue" if np.all(keys == keys[:, :1]) else "dialogue_turn"
    reward = golden.put(case["reward"], bits).reshape(keys.shape)
    value = jitted(reward, jnp.asarray(keys[:, 0]), grouping=grouping, **settings(case)).value
    golden.agree(value.reshape(-1), case, "advantage", bits)
    if grouping == "dialogue_turn":
        np.testing.assert_allclose(value.mean(axis=0), 0, atol=1e-5)
