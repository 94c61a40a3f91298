"""What holds for every objective there is: a new file in objectives/image or objectives/intent is tried here without being named."""

import jax
import jax.numpy as jnp
import numpy as np
import points_by_hand as by_hand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import kernels
from editr2_jax.objectives import catalogue
from editr2_jax.objectives.points import Velocities, Window

IMAGE, INTENT = catalogue.names("image"), catalogue.names("intent")
KERNELS = tuple(kind for kind in kernels.KINDS if kind != "ode")
REGRESSIONS = ("rwr",)  # they follow good samples and know no bad ones


def kernels_of(algorithm):
    return [kind for kind in KERNELS if kind in getattr(algorithm, "KERNELS", KERNELS)]


CASES = [
    pytest.param(kind, kernel, id=f"{kind}-{kernel}")
    for kind in IMAGE
    for kernel in (kernels_of(catalogue.named("image", kind)) if catalogue.named("image", kind).POINTS is Window else [""])
]


def point(algorithm, kernel, advantage, **more):
    if algorithm.POINTS is Window:
        return by_hand.window(advantage, kernel=kernel, **more)
    return by_hand.path(advantage, **more)


def likelihood(at, v):
    """How much v likes what was drawn, per row."""
    if isinstance(at, Window):
        return at.density(v).log_prob
    return -jnp.square(v - at.target).mean(axis=(1, 2))


def value_of(algorithm, at, v, old):
    return algorithm.loss(at, Velocities(v, old, old), algorithm.Config())


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_a_fresh_rollout_has_ratio_one(kind, kernel):
    """Only objectives that tell a ratio have one."""
    algorithm, v = catalogue.named("image", kind), by_hand.velocity(4)
    told = jax.jit(lambda v: value_of(algorithm, point(algorithm, kernel, [1.0, -1.0, 0.5, -2.0], group=2), v, v).statistics)(v)
    if "ratio" in told:
        np.testing.assert_allclose(told["ratio"], 1.0, atol=1e-6)
        np.testing.assert_allclose(told["log_ratio_max"], 0.0, atol=1e-6)


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_descent_makes_good_samples_likelier_and_bad_ones_less_likely(kind, kernel):
    """The slope of each row's likelihood along minus the gradient has the advantage's sign."""
    algorithm, advantage = catalogue.named("image", kind), np.array([2.0, -1.0, 1.0, -0.5])
    at, old = point(algorithm, kernel, advantage, group=2), by_hand.velocity(4)
    gradient = jax.grad(lambda v: value_of(algorithm, at, v, old).value.sum())(old)
    _, slope = jax.jvp(lambda v: likelihood(at, v), (old,), (-gradient,))
    slope = np.asarray(slope)
    assert (slope[advantage > 0] > 0).all()
    assert (slope[advantage < 0] < 0).all() if kind not in REGRESSIONS else (slope[advantage < 0] >= 0).all()


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_a_group_without_spread_moves_nothing(kind, kernel):
    """Equal rewards, or none known: the advantage is 0, and no gradient is left."""
    algorithm, old = catalogue.named("image", kind), by_hand.velocity(4)
    at = point(algorithm, kernel, np.zeros(4), group=2)
    gradient = jax.grad(lambda v: value_of(algorithm, at, v, old).value.sum())(old)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_rows_that_do_not_teach_are_finite_and_leave_the_others_alone(kind, kernel):
    """A masked row comes in as zeros; nothing may become infinite, and no pair or weight may be made with it."""
    algorithm, old = catalogue.named("image", kind), by_hand.velocity(4)
    mask = np.array([True, True, True, False])
    blank = lambda x: jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0.0)  # noqa: E731

    def learn(last):
        at = point(algorithm, kernel, [2.0, -1.0, 1.0, last], mask=mask, group=2)
        zeroed = {name: blank(getattr(at, name)) for name in ("x", "x_next", "clean", "noise", "advantage", "reward") if name in vars(at)}
        at = type(at)(**{**vars(at), **zeroed})
        return jax.value_and_grad(lambda v: jnp.where(mask, value_of(algorithm, at, v, old).value, 0.0).sum())(old)

    (one, gradient), (other, same) = learn(9.0), learn(-9.0)
    assert np.isfinite(one) and np.isfinite(gradient).all() and not np.asarray(gradient)[3].any()
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(gradient, same)


@pytest.mark.parametrize("kind", INTENT)
@given(st.lists(st.sampled_from([-2.0, -0.5, 0.5, 2.0]), min_size=2, max_size=2, unique=True))
def test_words_of_good_intents_become_likelier(kind, advantage):
    algorithm = catalogue.named("intent", kind)
    given_ = by_hand.tokens(advantage, group=2)

    def total(log_prob):
        return algorithm.loss(
            by_hand.tokens(advantage, log_prob=log_prob, old=given_.old_log_prob, group=2), algorithm.Config()
        ).value.sum()

    gradient = np.asarray(jax.grad(total)(given_.old_log_prob))
    for row, worth in enumerate(advantage):
        good = worth > 0 if kind not in REGRESSIONS else worth == max(advantage)
        assert (gradient[row] < 0).all() if good else (gradient[row] >= 0).all()


@pytest.mark.parametrize("kind", INTENT)
def test_tokens_that_do_not_exist_are_not_looked_at(kind):
    algorithm, mask = catalogue.named("intent", kind), np.array([[True, True, False, False], [True, True, True, True]])
    old = by_hand.tokens([1.0, -1.0]).old_log_prob
    spoilt = jnp.where(mask, old, jnp.nan)

    def total(log_prob, old):
        out = algorithm.loss(by_hand.tokens([1.0, -1.0], log_prob=log_prob, old=old, mask=mask, group=2), algorithm.Config())
        return jnp.where(mask, out.value, 0.0).sum(), out.value

    (value, per_token), gradient = jax.value_and_grad(total, has_aux=True)(spoilt, spoilt)
    (expected, _), same = jax.value_and_grad(total, has_aux=True)(old, old)
    assert np.isfinite(per_token).all() and value == expected
    np.testing.assert_array_equal(gradient, same)


@pytest.mark.parametrize("kind", INTENT)
def test_a_fresh_intent_has_ratio_one(kind):
    algorithm = catalogue.named("intent", kind)
    told = algorithm.loss(by_hand.tokens([1.0, -1.0], group=2), algorithm.Config()).statistics
    if "ratio" in told:
        np.testing.assert_array_equal(told["ratio"], 1.0)


@pytest.mark.parametrize("kind", IMAGE + tuple(f"{kind} of words" for kind in INTENT))
def test_an_objective_s_settings_are_plain_values_with_defaults(kind):
    """They become command-line flags."""
    family = "intent" if kind.endswith("of words") else "image"
    config = catalogue.named(family, kind.split()[0]).Config()
    assert all(isinstance(value, bool | int | float | str) for value in vars(config).values())


def test_what_is_no_objective_is_refused_naming_the_nearest():
    with pytest.raises(ValueError, match=r"objective.image.kind: there is no 'grop', did you mean 'grpo'; choose from awm, dpo"):
        catalogue.named("image", "grop")
