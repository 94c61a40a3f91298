import golden_vectors as golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import fusion
from editr2_jax.training import train_batch
from editr2_jax.training.train_batch import AdvantageConfig

GROUP = np.array([7, 7, 7, 7], np.int32)
NAN = np.nan
REWARD = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.5], [1.0, 0.5]], np.float32)
SOUND = np.ones((4, 2), np.float32)
SPOKE = np.zeros((4, 2), bool)
BY_GROUP = {"std": "group"}


def _credit(reward=REWARD, failures=SOUND, fallback=SPOKE, played=None, **config):
    """Of one reward that counts; the filter's, `if`, counts nothing."""
    rewards = {"r": np.float32(reward)} | ({} if failures is None else {"if": failures})
    return train_batch.credit(rewards, {"r": 1.0}, GROUP, fallback, AdvantageConfig(**config), played=played)


def _fused(rewards, weights, fallback=SPOKE, **config):
    """Of several rewards, without a filter."""
    tables = {name: np.float32(table) for name, table in rewards.items()}
    return train_batch.credit(tables, weights, GROUP, fallback, AdvantageConfig(filter="off", **config))


def _at(*places) -> np.ndarray:
    mask = np.zeros((4, 2), bool)
    for place in places:
        mask[place] = True
    return mask


def test_rewards_are_measured_against_their_turn_and_group():
    made, metrics = _credit(**BY_GROUP)
    np.testing.assert_allclose(made.image_advantage[:, 0], [-1, 1, -1, 1], rtol=1e-3)
    np.testing.assert_allclose(made.image_advantage[:, 1], np.sqrt(2) * np.array([1, -1, 0, 0]), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(made.text_advantage, made.image_advantage)
    assert made.image_mask.all() and made.text_mask.all() and not (made.why != "").any()
    assert metrics["advantage/mean_turn_0"] == pytest.approx(0, abs=1e-6)
    assert metrics["advantage/max"] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert metrics["filter/dropped"] == metrics["reward/missing_share"] == metrics["advantage/zero_variance_share"] == 0


def test_a_missing_reward_silences_its_turn_and_enters_no_baseline():
    reward = REWARD.copy()
    reward[0, 0] = NAN
    made, metrics = _credit(reward, **BY_GROUP)
    np.testing.assert_array_equal(~made.image_mask, _at((0, 0)))
    np.testing.assert_array_equal(~made.text_mask, _at((0, 0)))
    assert made.image_advantage[0, 0] == made.text_advantage[0, 0] == 0 and made.why[0, 0] == "no verdict"
    np.testing.assert_allclose(made.image_advantage[1:, 0], np.array([1, -2, 1]) / np.sqrt(2), rtol=1e-3)
    assert metrics["reward/missing_share"] == 1 / 8


@pytest.mark.parametrize(("mode", "image", "text"), [("all", False, False), ("image", False, True), ("off", True, True)])
def test_a_turn_after_a_failure_teaches_what_the_filter_lets_through(mode, image, text):
    failures = SOUND.copy()
    failures[2, 0] = 0.0
    made, metrics = _credit(failures=failures, filter=mode)
    assert (made.image_mask[2, 1], made.text_mask[2, 1]) == (image, text)
    assert made.image_mask[2, 0] and made.text_mask[2, 0]  # the failure itself teaches
    assert made.image_mask.sum() == 7 + image and made.text_mask.sum() == 7 + text
    assert made.why[2, 1] == ("" if mode == "off" else "after a failed turn")
    assert metrics["filter/dropped"] == (0 if mode == "off" else 1 / 8)
    assert metrics["filter/kept_turn_1"] == (1 if mode == "off" else 3 / 4)


def test_the_floor_says_what_a_failure_is_and_no_verdict_is_none():
    failures = SOUND.copy()
    failures[:, 0] = [0.25, 0.26, NAN, 1.0]
    made, _ = _credit(failures=failures, floor=0.25)
    np.testing.assert_array_equal(made.image_mask[:, 1], [False, True, True, True])


def test_filtered_turns_enter_the_statistics_or_not():
    """Row 0 fails in turn 0; its turn 1 has the only high reward."""
    failures, reward = SOUND.copy(), np.array([[0, 1.0], [0, 0.2], [0, 0.1], [0, 0.0]])
    failures[0, 0] = 0.0
    first, _ = _credit(reward, failures, filter="all", filter_first=True, **BY_GROUP)
    last, _ = _credit(reward, failures, filter="all", filter_first=False, **BY_GROUP)
    spread = np.std([0.2, 0.1, 0.0])
    np.testing.assert_allclose(first.image_advantage[1:, 1], np.array([0.1, 0, -0.1]) / (spread + 1e-4), atol=1e-4)
    assert np.all(last.image_advantage[1:, 1] < 0)
    spared, _ = _credit(reward, failures, filter="image", filter_first=True, **BY_GROUP)
    np.testing.assert_allclose(spared.image_advantage, first.image_advantage, atol=1e-6)
    np.testing.assert_allclose(spared.text_advantage, last.text_advantage, atol=1e-6)  # words that are spared keep their baseline


def test_a_fallback_silences_the_words_and_not_the_picture():
    fallback = _at((1, 1), (3, 1))
    made, metrics = _credit(fallback=fallback)
    assert made.image_mask.all()
    np.testing.assert_array_equal(~made.text_mask, fallback)
    np.testing.assert_array_equal(made.why == "no intent in the answer", fallback)
    assert metrics["intent/fallback_share"] == 0.5  # of later turns
    assert _credit(fallback=fallback, learn_from_fallback=True)[0].text_mask.all()


def test_one_baseline_for_all_turns_lets_their_difficulty_in():
    reward = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.9, 0.0]])
    over_turns, _ = _credit(reward, grouping="dialogue")
    per_turn, _ = _credit(reward, grouping="dialogue_turn")
    assert np.all(over_turns.image_advantage[:, 0] > 0) and np.all(over_turns.image_advantage[:, 1] < 0)
    assert not per_turn.image_advantage[:, 1].any()


def test_a_group_without_spread_teaches_nothing_and_is_counted():
    made, metrics = _credit(np.full((4, 2), 0.3))
    assert not made.image_advantage.any() and metrics["advantage/zero_variance_share"] == 1


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0, NAN]), min_size=8, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_what_is_masked_is_a_number_and_what_has_no_verdict_is_masked(rewards, fell):
    reward, fallback = np.reshape(rewards, (4, 2)), np.reshape(fell, (4, 2))
    fallback[:, 0] = False
    made, metrics = _credit(reward, np.float32(reward), fallback, filter="all")
    for advantage in (made.image_advantage, made.text_advantage):
        assert np.isfinite(advantage).all() and not advantage[np.isnan(reward)].any()
    assert not (made.image_mask | made.text_mask)[np.isnan(reward)].any()
    assert np.all(made.text_mask <= made.image_mask)
    np.testing.assert_array_equal(made.why == "", made.text_mask)
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_filter_without_its_reward_is_refused():
    with pytest.raises(ValueError, match=r"filter \('image'\) needs the reward 'if', .* add it to rewards.use or set advantage.filter=off"):
        _credit(failures=None)
    assert _credit(failures=None, filter="off")[0].image_mask.all()


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("grouping", "turn", "dialogue, dialogue_turn, trajectory"),
        ("std", "batch", "group, global, none"),
        ("filter", "none", "all, image, off"),
        ("aggregate", "max", "mean, sum, last, product, min, geomean"),
        ("transform", "delta", "none, improvement, to_go"),
        ("fusion", "loss", "reward, advantage"),
        ("fusion_form", "sum", "convex, additive, gdpo"),
        ("eps_mode", "max", "additive, floor"),
        ("baseline", "rloo", "mean, leave_one_out"),
        ("text_std", "batch", r"'' \(as for pictures\), group, global, none"),
        ("text_baseline", "rloo", r"'' \(as for pictures\), mean, leave_one_out"),
    ],
)
def test_an_unknown_setting_is_refused(field, value, choices):
    with pytest.raises(ValueError, match=f"AdvantageConfig.{field} is '{value}'; choose one of {choices}"):
        AdvantageConfig(**{field: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, "AdvantageConfig.eps is 0.0; give a positive number"),
        ({"ddof": 2}, "AdvantageConfig.ddof is 2"),
        ({"trim": 1.0}, "AdvantageConfig.trim is 1.0; give a share"),
        ({"trim": 0.2, "text_baseline": "leave_one_out"}, "trim is 0.2, but the baseline leave_one_out"),
        ({"transform": "to_go", "gamma": 0.0}, "gamma is 0.0; give a discount above 0"),
        ({"gamma": 0.9}, "gamma is 0.9 but transform is 'none'; set transform=to_go or gamma=1"),
        ({"aggregate": "last"}, "aggregate is 'last' but grouping is 'dialogue_turn'.*set grouping=trajectory"),
        ({"aggregate": "geomean", "grouping": "trajectory", "transform": "improvement"}, "may be negative; choose another aggregate"),
        ({"fusion_form": "gdpo"}, "'gdpo', which standardises fused advantages; set fusion=advantage"),
    ],
)
def test_settings_that_cannot_hold_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageConfig(**settings)


def test_rewards_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="weights for cc but rewards if; leave them out"):
        _fused({"if": REWARD}, {"if": 1.0, "cc": 1.0})
    with pytest.raises(ValueError, match=r"shape \{'cc': \(4, 1\)\} do not fit \(4, 2\)"):
        _fused({"if": REWARD, "cc": REWARD[:, :1]}, {"if": 1.0, "cc": 1.0})


# Trajectories ----------------------------------------------------------------------------------------------------------------------


def test_a_trajectory_has_one_value_at_every_turn():
    made, metrics = _credit(grouping="trajectory", **BY_GROUP)
    np.testing.assert_array_equal(made.image_advantage[:, 0], made.image_advantage[:, 1])
    mean = REWARD.mean(axis=1)
    np.testing.assert_allclose(made.image_advantage[:, 0], (mean - mean.mean()) / (mean.std() + 1e-4), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made.reward, REWARD)
    assert made.image_mask.all() and metrics["advantage/zero_variance_share"] == 0


def test_a_missing_verdict_silences_its_trajectory_unless_the_aggregate_does_not_need_it():
    reward = REWARD.copy()
    reward[1, 0] = NAN
    made, metrics = _credit(reward, grouping="trajectory", **BY_GROUP)
    np.testing.assert_array_equal(~made.image_mask, _at((1, 0), (1, 1)))
    assert set(made.why[1]) == {"no verdict"} and not made.image_advantage[1].any()
    assert metrics["reward/missing_share"] == 1 / 8 and metrics["advantage/missing_share"] == 2 / 8
    assert _credit(reward, grouping="trajectory", aggregate="last")[0].image_mask.all()


def test_the_filter_takes_turns_out_of_a_trajectory_and_not_out_of_its_value():
    failures = SOUND.copy()
    failures[0, 0] = 0
    made, _ = _credit(failures=failures, grouping="trajectory")
    np.testing.assert_array_equal(~made.image_mask, _at((0, 1)))
    np.testing.assert_array_equal(made.image_advantage, _credit(grouping="trajectory")[0].image_advantage)


@pytest.mark.parametrize("aggregate", ["mean", "last", "product"])
def test_a_shorter_session_is_a_trajectory_too(aggregate):
    """Row 3 has one turn, as good as two of that kind."""
    reward, played = np.array([[0.2, 0.2], [0.5, 0.5], [1.0, 1.0], [1.0, NAN]]), np.array([[True, True]] * 3 + [[True, False]])
    made, metrics = _credit(reward, played=played, grouping="trajectory", aggregate=aggregate)
    assert made.image_advantage[3, 0] == made.image_advantage[2, 0] > 0
    np.testing.assert_array_equal(made.image_mask, played)
    assert made.image_advantage[3, 1] == 0 and made.why[3, 1] == "not played"
    assert metrics["reward/missing_share"] == metrics["advantage/missing_share"] == 0


# Transforms ------------------------------------------------------------------------------------------------------------------------


def test_an_improvement_is_credited_where_it_was_made():
    reward = np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 1.0], [0.5, 1.0]])
    made, _ = _credit(reward, transform="improvement", std="none")
    np.testing.assert_allclose(made.image_advantage[:, 1], [0.5, -0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(made.image_advantage[:, 0], reward[:, 0] - 0.5, atol=1e-6)


def test_what_is_to_go_credits_a_turn_with_what_comes_after_it():
    reward = np.array([[0.5, 1.0], [0.5, 0.0], [0.5, 0.5], [0.5, 0.5]])
    made, _ = _credit(reward, transform="to_go", gamma=0.5, std="none")
    np.testing.assert_allclose(made.image_advantage, 0.5 * (reward[:, 1:] - 0.5) * [[1, 2]], atol=1e-6)


def test_what_is_to_go_counts_before_its_reward_does():
    """A reward that applies to the last turn alone."""
    weights = {"if": 0.5, "ga": np.float32([[0.0, 0.5]] * 4)}
    rewards = {"if": np.full((4, 2), 0.5), "ga": np.array([[NAN, 1.0], [NAN, 0.0], [NAN, 1.0], [NAN, 0.0]])}
    plain, ahead = (_fused(rewards, weights, transform=transform, std="none")[0] for transform in ("none", "to_go"))
    assert not plain.image_advantage[:, 0].any() and plain.image_mask.all()
    np.testing.assert_allclose(ahead.image_advantage[:, 0], [0.25, -0.25, 0.25, -0.25])


# Fusion ----------------------------------------------------------------------------------------------------------------------------

OTHER = np.array([[1.0, 0.2], [0.0, 0.3], [0.5, 0.4], [NAN, 0.5]])


def test_a_missing_reward_silences_a_sum_of_rewards_and_not_one_of_advantages():
    weights = {"if": 0.5, "cc": 0.5}
    summed, _ = _fused({"if": REWARD, "cc": OTHER}, weights, **BY_GROUP)
    each, metrics = _fused({"if": REWARD, "cc": OTHER}, weights, fusion="advantage", **BY_GROUP)
    np.testing.assert_array_equal(~summed.image_mask, _at((3, 0)))
    assert each.image_mask.all() and np.isnan(each.reward[3, 0])
    alone, _ = _fused({"if": REWARD}, {"if": 1.0}, **BY_GROUP)
    assert each.image_advantage[3, 0] == pytest.approx(0.5 * alone.image_advantage[3, 0])
    assert metrics["reward/missing_share"] == 1 / 8 and metrics["advantage/missing_share"] == 0


def test_a_reward_without_weight_is_only_looked_at():
    alone, with_other = (_fused(tables, {"if": 1.0})[0] for tables in ({"if": REWARD}, {"if": REWARD, "cc": OTHER}))
    np.testing.assert_array_equal(alone.image_advantage, with_other.image_advantage)
    assert with_other.image_mask.all()


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0, NAN]), min_size=16, max_size=16), st.sampled_from(fusion.FORMS), st.booleans())
def test_fused_advantages_are_numbers_and_zero_where_no_verdict_is(numbers, form, by_trajectory):
    a, b = np.reshape(numbers, (2, 4, 2))
    grouping = "trajectory" if by_trajectory else "dialogue_turn"
    made, metrics = _fused({"if": a, "cc": b}, {"if": 1.0, "cc": 0.3}, fusion="advantage", fusion_form=form, grouping=grouping)
    assert np.isfinite(made.image_advantage).all() and not made.image_advantage[~made.image_mask].any()
    np.testing.assert_allclose(made.image_advantage.sum(axis=0), 0, atol=1e-4)
    assert all(np.isfinite(value) for value in metrics.values())


def test_words_may_be_measured_otherwise_than_pictures():
    made, _ = _credit(text_std="none", text_baseline="leave_one_out", **BY_GROUP)
    np.testing.assert_array_equal(made.image_advantage, _credit(**BY_GROUP)[0].image_advantage)
    np.testing.assert_allclose(made.text_advantage[:, 0], (REWARD[:, 0] - 0.5) * 4 / 3, rtol=1e-6)


# Scales ----------------------------------------------------------------------------------------------------------------------------


def test_a_mean_over_the_kept_is_a_scale_of_the_mean_over_all():
    failures, fallback = SOUND.copy(), _at((3, 1))
    failures[:2, 0] = 0.0
    made, _ = _credit(failures=failures, fallback=fallback, filter="all", normalise_by_kept=True)
    assert made.image_scale == 8 / 6 and made.text_scale == 4 / 1  # of the later turns' words, one teaches
    loss = np.arange(8.0).reshape(4, 2)
    assert made.image_scale * np.mean(np.where(made.image_mask, loss, 0)) == pytest.approx(loss[made.image_mask].mean())
    plain, _ = _credit(failures=failures, fallback=fallback, filter="all")
    assert plain.image_scale == plain.text_scale == 1


def test_a_scale_stays_a_number_where_nothing_teaches_or_no_turn_has_words():
    made, _ = _credit(np.full((4, 2), NAN), normalise_by_kept=True)
    assert made.image_scale == made.text_scale == 1
    one, _ = train_batch.credit({"if": REWARD[:, :1]}, {"if": 1}, GROUP, SPOKE[:, :1], AdvantageConfig(normalise_by_kept=True))
    assert one.image_scale == one.text_scale == 1


def test_some_rows_keep_the_scales_of_the_step():
    made, _ = _credit(failures=np.float32([[0, 1], [1, 1], [1, 1], [1, 1]]), normalise_by_kept=True)
    part = made.rows(1, 3)
    assert part.image_scale == made.image_scale > 1
    for name in ("reward", "image_advantage", "text_advantage", "image_mask", "text_mask", "why"):
        np.testing.assert_array_equal(getattr(part, name), getattr(made, name)[1:3])


# Recorded --------------------------------------------------------------------------------------------------------------------------


def _column(case, name, bits):
    return np.asarray(golden.put(case[name], bits)).reshape(-1, 1)


def _recorded_settings(case) -> tuple[dict, list[tuple[str, dict, dict]]]:
    """Common settings of a recorded fusion, and per output: its name, weights and further settings."""
    args, by_group = case.args, {"std": "global" if case.args.get("global_std", False) else "group"}
    if "turn_aggregation" in args:
        share = args["lambda_cc"]
        common = by_group | {"eps": args["epsilon"], "ddof": args["ddof"], "grouping": "trajectory", "aggregate": args["turn_aggregation"]}
        forms = {"additive": {"if": 1.0, "cc": share}, "convex": {"if": 1 - share, "cc": share}}
        wanted = [
            (f"{level}_level_{form}", weights, {"fusion": level, "fusion_form": form})
            for level in fusion.LEVELS
            for form, weights in forms.items()
        ]
        only = [(f"adv_{name}", {name: 1.0}, {}) for name in ("if", "cc")]
        return common, [*wanted, *only, ("broadcast_additive", forms["additive"], {"fusion": "advantage", "fusion_form": "additive"})]
    weights = args["weights"]
    if "MixGRPO" in case.function:
        form = {"fusion": "reward" if "reward_aggr" in case.function else "advantage", "fusion_form": "convex"}
        return {"std": "group", "ddof": args["ddof"], "eps": args["epsilon"]}, [("advantage", weights, form)]
    floored = {"eps": 1e-6, "eps_mode": "floor"}  # Flow-Factory's, in none of its arguments
    if "gdpo" in case.function:
        return floored | {"std": "group"}, [("advantage_f64", weights, {"fusion": "advantage", "fusion_form": "gdpo"})]
    return floored | by_group, [("advantage_f64", weights, {"fusion_form": "additive"})]


@golden.each("fusion")
def test_fused_credit_matches_what_was_recorded(case, bits):
    common, outputs = _recorded_settings(case)
    mt = {"if": "if_1to5", "cc": "cc_0to1"}
    scores = mt if "turn_aggregation" in case.args else {name: f"reward_{name}" for name in case.args["weights"]}
    rewards = {name: np.asarray(golden.put(case[tensor], bits)) for name, tensor in scores.items()}
    rewards = {name: table.reshape(len(table), -1) for name, table in rewards.items()}
    spoke = np.zeros(next(iter(rewards.values())).shape, bool)
    size = case.args.get("group_size") or case.args["num_generations"]
    group = case["group"] if "group" in case else np.arange(len(spoke)) // size
    for output, weights, settings in outputs:
        made, _ = train_batch.credit(rewards, weights, group, spoke, AdvantageConfig(filter="off", **common, **settings))
        truth = case[output]
        ours = made.image_advantage if truth.ndim == 2 else made.image_advantage[:, 0]
        golden.near(ours, truth, bits, what=f"{case.name}.{output}", closed=case.function.startswith("definition"))
        assert made.image_mask.all()


@golden.each("advantage", lambda case: "epsilon" in case.args)
def test_credit_of_one_reward_matches_what_was_recorded(case, bits):
    args = case.args
    std = "none" if not args.get("normalise", True) else "global" if args.get("global_std", False) else "group"
    config = AdvantageConfig(filter="off", std=std, eps=args["epsilon"], ddof=args["ddof"], trim=args.get("trimmed_ratio", 0.0))
    reward = _column(case, "reward", bits)
    group = case["group"] if "group" in case else np.arange(len(reward)) // args["num_generations"]
    made, _ = train_batch.credit({"r": reward}, {"r": 1.0}, group, np.zeros(reward.shape, bool), config)
    golden.agree(made.image_advantage, case, "advantage", bits)


@golden.each("trajectory_filter")
def test_credit_filters_as_edit_r2_does(case, bits):
    """Recorded as (batches, turns, rollouts); the advantages are any numbers."""
    for score, used, before, after, words in zip(
        *(case[name] for name in ("if_score", "used_to_learn", "advantage", "advantage_masked", "text_advantage")), strict=True
    ):
        rewards, group = {"if": np.asarray(golden.put(score.T, bits))}, np.zeros(score.shape[1], int)
        made, metrics = train_batch.credit(rewards, {"if": 1.0}, group, np.zeros(score.T.shape, bool), AdvantageConfig(filter_first=False))
        np.testing.assert_array_equal(made.image_mask.T, used.astype(bool))
        np.testing.assert_array_equal(np.where(made.image_mask.T, before, 0), after)
        np.testing.assert_array_equal(np.where(made.text_mask.T, before, 0), words)
        assert [metrics[f"filter/kept_turn_{t}"] for t in range(len(used))] == pytest.approx(used.mean(axis=1))


# Shapes ----------------------------------------------------------------------------------------------------------------------------


def test_shorter_sessions_are_filled_up():
    rows = [np.ones((1, 2)), np.zeros((2, 3))]
    np.testing.assert_array_equal(train_batch.pad_turns(rows, 3, NAN), [[1, 1, NAN], [0, 0, 0], [0, 0, 0]])
