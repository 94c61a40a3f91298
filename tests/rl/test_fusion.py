import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rl import advantages, fusion

NAN = float("nan")
GROUP = np.array([0, 0, 0, 1, 1, 1])
WIDE = np.float32([[1], [5], [3], [2], [2], [5]])  # 1 to 5
NARROW = np.float32([[0.9], [0.8], [0.85], [0.7], [0.9], [0.8]])

measured = jax.jit(lambda reward: advantages.group_relative(reward, GROUP, grouping="trajectory", std="group"))


def fused(parts, weights, **options):
    return np.asarray(fusion.of_advantages({name: measured(part) for name, part in parts.items()}, weights, **options).value)


def test_rewards_by_hand():
    rewards = {"if": np.float32([[1.0, 0.0]]), "cc": np.float32([[0.5, 0.5]])}
    np.testing.assert_allclose(fusion.of_rewards(rewards, {"if": 1.0, "cc": 0.3}, form="additive"), [[1.15, 0.15]], rtol=1e-6)
    np.testing.assert_allclose(fusion.of_rewards(rewards, {"if": 0.6, "cc": 0.2}, form="convex"), [[0.875, 0.125]], rtol=1e-6)


def test_a_missing_reward_makes_the_sum_missing_unless_it_does_not_count():
    rewards = {"if": np.float32([[1.0, 0.5, NAN]]), "cc": np.float32([[NAN, NAN, NAN]])}
    weights = {"if": 0.5, "cc": np.array([[0.5, 0.0, 0.0]])}
    np.testing.assert_array_equal(fusion.of_rewards(rewards, weights), [[NAN, 0.5, NAN]])
    np.testing.assert_array_equal(fusion.of_rewards(rewards, {"if": 0.0, "cc": 0.0}), [[NAN] * 3])


def test_a_missing_reward_leaves_the_others_advantages_as_they_are():
    hole = NARROW.copy()
    hole[1] = NAN
    parts, weights = {"if": measured(WIDE), "cc": measured(hole)}, {"if": 1.0, "cc": 0.3}
    out = fusion.of_advantages(parts, weights, form="additive")
    np.testing.assert_array_equal(out.value[1], parts["if"].value[1])
    assert out.known.all() and out.speaks.all()
    alone = fusion.of_advantages({"cc": parts["cc"]}, {"cc": 0.3})
    assert not alone.known[1] and alone.value[1] == 0
    off = fusion.of_advantages(parts, {"if": 0.0, "cc": 0.3})
    assert not off.known[1] and not off.speaks[1]  # a reward of weight 0 is not there


def test_the_wide_reward_decides_a_sum_of_rewards_and_not_one_of_advantages():
    weights = {"if": 0.5, "cc": 0.5}
    of_sum = np.asarray(measured(fusion.of_rewards({"if": WIDE, "cc": NARROW}, weights)).value)
    of_parts = fused({"if": WIDE, "cc": NARROW}, weights)
    assert np.corrcoef(of_sum[:3, 0], WIDE[:3, 0])[0, 1] > 0.999
    np.testing.assert_allclose(of_parts[:3], 0, atol=2e-3)  # they disagree exactly, with one weight


@given(st.floats(0.1, 0.9), st.sampled_from([10.0, 100.0]))
def test_an_advantage_level_sum_asks_for_no_common_scale(weight, scale):
    weights = {"if": weight, "cc": 1 - weight}
    np.testing.assert_allclose(fused({"if": WIDE, "cc": scale * NARROW}, weights), fused({"if": WIDE, "cc": NARROW}, weights), atol=3e-3)


@given(st.floats(0.1, 3.0), st.floats(0.1, 3.0), st.floats(0.5, 5.0))
def test_weights_have_a_scale_in_an_additive_sum_alone(a, b, scale):
    parts = {"if": WIDE, "cc": NARROW}
    once, more = ({form: fused(parts, {"if": k * a, "cc": k * b}, form=form) for form in fusion.FORMS} for k in (1.0, scale))
    np.testing.assert_allclose(more["additive"], scale * once["additive"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(more["convex"], once["convex"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(more["gdpo"], once["gdpo"], rtol=1e-2, atol=1e-3)


def test_gdpo_has_unit_spread_over_the_batch_and_keeps_silence():
    flat = WIDE.copy()
    flat[:3] = 2.0
    value = fused({"if": flat}, {"if": 1.0}, form="gdpo", eps=1e-6, eps_mode="floor")
    assert not value[:3].any()
    assert np.std(value) == pytest.approx(1, rel=1e-4) and np.mean(value) == pytest.approx(0, abs=1e-6)


def test_what_does_not_enter_is_standardised_with_the_rest():
    enters = np.array([[True]] * 3 + [[False]] * 3)
    value = fused({"if": WIDE}, {"if": 1.0}, form="gdpo", mask=enters)
    assert np.std(value[:3]) == pytest.approx(1, rel=1e-3) and value[3:].any()


def test_what_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match="there is no fusion form 'sum'; choose one of convex, additive, gdpo"):
        fusion.of_rewards({"if": WIDE}, {"if": 1.0}, form="sum")
    with pytest.raises(ValueError, match=r"a weight for every reward .* rewards \['if'\], weights \['cc'\]"):
        fusion.of_rewards({"if": WIDE}, {"cc": 1.0})
    with pytest.raises(ValueError, match="gdpo standardises fused advantages"):
        fusion.of_rewards({"if": WIDE}, {"if": 1.0}, form="gdpo")
