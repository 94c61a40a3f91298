"""Windows: by hand, the exact support of every kind, and the recorded schedules.

Some tests name a defect of a reference: 3, the window of a process; 14, windows that shrink and empty, and a last step that is never
learned from; 20, a shift that moves training to the wrong end; 21, a last step that is never drawn.
"""

import dataclasses
import random

import golden_vectors as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.flow import sde_window, timesteps
from editr2_jax.flow.sde_window import WindowConfig

ranges = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3)).map(lambda r: (r[0], r[0] + r[1] + r[2], r[1]))


def keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def drawn(window: WindowConfig, count: int = 400, iteration: int = 0) -> np.ndarray:
    """The stochastic steps [count, W] of independent rows."""
    return np.asarray(sde_window.steps(window, keys(count), iteration))


def test_windows_by_hand():
    assert drawn(WindowConfig(kind="fixed", size=2, first=3), 1).tolist() == [[3, 4]]
    assert drawn(WindowConfig(kind="full", first=1, last=5), 1).tolist() == [[1, 2, 3, 4]]
    slides = WindowConfig(kind="sliding", size=2, first=1, last=5, period=2)
    assert [drawn(slides, 1, i)[0].tolist() for i in range(8)] == [[1, 2]] * 2 + [[2, 3]] * 2 + [[3, 4]] * 2 + [[1, 2]] * 2
    stays = dataclasses.replace(slides, roll_back=False)
    assert [drawn(stays, 1, i)[0, 0] for i in (5, 6, 1000)] == [3, 3, 3]
    assert drawn(dataclasses.replace(slides, stride=0), 1, 99)[0, 0] == 1
    hurries = dataclasses.replace(slides, period=4, decay=0.7, decay_from=1)  # ceil(4 exp(-0.7 (s - 1))): 4, 2, 1
    assert [int(drawn(hurries, 1, i)[0, 0]) for i in range(9)] == [1] * 4 + [2] * 2 + [3] + [1] * 2


def test_a_large_stride_ends_where_the_window_still_fits():
    """4 steps of 10: 0, 4, and then 6, the last start; from there back where the window rolls back."""
    window = WindowConfig(kind="sliding", size=4, last=10, period=1, stride=4, roll_back=False)
    assert [int(drawn(window, 1, i)[0, 0]) for i in range(5)] == [0, 4, 6, 6, 6]
    assert [int(drawn(dataclasses.replace(window, roll_back=True), 1, i)[0, 0]) for i in range(5)] == [0, 4, 6, 0, 4]


def test_a_window_contains_its_steps_and_no_others():
    steps = jnp.array([[0, 1], [2, 5]])
    np.testing.assert_array_equal([sde_window.contains(steps, i) for i in range(6)], [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 1]])
    assert not sde_window.contains(jnp.zeros((2, 0), jnp.int32), 0).any()


@given(ranges, st.sampled_from(sde_window.KINDS), st.integers(0, 500), st.integers(0, 99), st.integers(0, 3), st.booleans())
def test_every_window_has_w_different_steps_of_its_range(reach, kind, iteration, seed, stride, roll_back):
    """Defect 14: a sliding window neither shrinks nor empties, wherever the iteration finds it."""
    first, last, size = reach
    window = WindowConfig(kind=kind, size=size, first=first, last=last, period=3, stride=stride, roll_back=roll_back)
    steps = np.asarray(sde_window.steps(window, keys(4, seed), iteration))
    assert steps.shape == (4, window.count) and window.count == (last - first if kind == "full" else size)
    assert np.all(np.diff(steps, axis=1) > 0) and steps.min() >= first and steps.max() < last
    if kind != "subset":
        assert np.all(np.diff(steps, axis=1) == 1)


def test_the_starts_of_a_random_window_are_equally_likely_both_ends_included():
    """Defect 21: the last step of the range is drawn, too."""
    starts = drawn(WindowConfig(size=2, first=0, last=7), 6000)[:, 0]
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == list(sde_window.starts(0, 7, 2)) == [0, 1, 2, 3, 4, 5]
    assert counts.min() > 850 and counts.max() < 1150


def test_the_subsets_are_equally_likely_and_reach_both_ends():
    """Defect 21 again: 10 subsets of 2 of the 5 steps 1 .. 5, the last step as often as the first."""
    subsets, counts = np.unique(drawn(WindowConfig(kind="subset", size=2, first=1, last=6), 4000), axis=0, return_counts=True)
    assert len(subsets) == 10 and subsets.min() == 1 and subsets.max() == 5
    assert counts.min() > 320 and counts.max() < 480


def test_a_sliding_window_visits_every_step_of_its_range():
    """Defect 14: the last step is learned from as long as any other place is held."""
    window = WindowConfig(kind="sliding", size=4, first=0, last=24, period=25)
    held = np.concatenate([drawn(window, 1, i)[0] for i in range(21 * 25)])
    assert set(held.tolist()) == set(range(24)) and np.sum(held == 23) == 25
    assert drawn(window, 1, 21 * 25)[0, 0] == 0


def test_a_new_key_moves_a_random_window():
    """Defect 3: a window per process would never move. Keys are cut by iteration, so all starts come up."""
    window = WindowConfig(size=2, first=0, last=7)
    assert set(drawn(window, 40)[:, 0].tolist()) == set(range(6))
    same = jnp.broadcast_to(jax.random.key(1), (8,))
    for kind in ("random", "subset"):  # rows with one key share the window
        assert len(np.unique(sde_window.steps(dataclasses.replace(window, kind=kind), same), axis=0)) == 1


def test_drawing_leaves_the_global_generators_alone():
    """Defect 3: the reference seeds Python's and then draws from it, in every sampling call."""
    before = random.getstate(), np.random.get_state()[1].copy()
    drawn(WindowConfig(size=2)), drawn(WindowConfig(kind="subset", size=2))
    assert random.getstate() == before[0] and np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("grid", [timesteps.shifted(15, 3.0), timesteps.static(15, 3.0), timesteps.dynamic(15, timesteps.exponent(1024))])
@pytest.mark.parametrize("kind", ["random", "subset"])
def test_a_shift_above_one_trains_at_the_noisy_end(grid, kind):
    """Defect 20: mean time of the steps that are learned from, where an even grid's is about a half; the reference has 0.29 at shift 3."""
    steps = drawn(WindowConfig(kind=kind, size=2, first=0, last=14), 2000)
    even = np.asarray(timesteps.shifted(15, 1.0))[steps].mean()
    assert np.asarray(grid)[steps].mean() > even + 0.1


def test_a_window_that_cannot_be_is_refused():
    fits = {"size": 2, "first": 0, "last": 7}
    for wrong, message in (
        ({"kind": "progressive"}, "kind is 'progressive'; choose one of random, sliding, fixed, subset, full"),
        ({"share": "rank"}, "share is 'rank'; choose one of group, batch"),
        ({"size": -1}, "nothing below 0"),
        ({"period": 0}, "a period of at least 1"),
        ({"stride": -1}, "nothing below 0"),
        ({"last": 1}, r"no window of 2 steps fits into steps 0\.\.0: want .* first <= last - size"),
        ({"first": -1}, "no window of 2 steps"),
        ({"kind": "full", "first": 7}, "no window of 0 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            WindowConfig(**(fits | wrong))
    with pytest.raises(ValueError, match="a sliding window moves with the iterations; say which one this is"):
        sde_window.steps(WindowConfig(kind="sliding"), keys(1))
    with pytest.raises(ValueError, match="no window of 3 steps"):
        sde_window.draw(jax.random.key(0), 0, 2, 3)


@pytest.mark.parametrize("kind", sde_window.KINDS)
def test_size_0_is_no_window_at_all(kind):
    window = WindowConfig(kind=kind, size=0, first=9, last=3)
    assert window.count == 0 and sde_window.steps(window, keys(3)).shape == (3, 0)


# Recorded ------------------------------------------------------------------------------------------------------------------------


def slid(case) -> np.ndarray:
    """MixGRPO's starts by our function, its class' defaults where an argument is not given.

    Its range ends at max_timesteps, itself a start, where windows are cut off.
    """
    args = {
        "roll_back": False,
        "prog_overlap": False,
        "prog_overlap_step": 1,
        "exp_decay_k": 0.1,
        "exp_decay_thre_timestep": 13,
    } | case.args
    decay = {"decay": args["exp_decay_k"], "decay_from": args["exp_decay_thre_timestep"]} if args["sample_strategy"] == "exp_decay" else {}
    stride = args["prog_overlap_step"] if args["prog_overlap"] else args["group_size"]
    how = {"period": args["iters_per_group"], "stride": stride, "roll_back": args["roll_back"], **decay}
    return np.array([sde_window.slide(i, first=0, last_start=args["max_timesteps"], **how) for i in range(case["start"].size)])


@golden.each("window", lambda case: case.args.get("sample_strategy") in ("progressive", "exp_decay"))
def test_the_schedule_of_mixgrpo(case, bits):
    starts, last = slid(case), case.args["max_timesteps"]
    np.testing.assert_array_equal(starts, case["start"])
    np.testing.assert_array_equal(np.minimum(starts + case.args["group_size"], last) - starts, case["length"])


@golden.each("window", lambda case: case.args.get("sample_strategy") == "random")
def test_the_random_windows_of_mixgrpo(case, bits):
    """The first window is position 0, drawn by nobody; each later one is the rule's, from an integer of the recorded generator."""
    size, last = case.args["group_size"], case.args["max_timesteps"]
    places = sde_window.starts(0, last, size)
    by_rule = [places[int(np.random.default_rng(seed).integers(len(places)))] for seed in case["seed"].tolist()]
    assert case["start"].tolist() == [0, *by_rule[:-1]] and set(case["length"].tolist()) == {size}
    assert set(drawn(WindowConfig(size=size, last=last), 2000)[:, 0].tolist()) == set(places)


@golden.each("window", lambda case: "window_range" in case.args)
def test_the_windows_of_edit_r2(case, bits):
    """There a start per process, here per iteration: of one rule, from an integer of a generator seeded by the rank."""
    (first, last), size = case.args["window_range"], case.args["window_size"]
    places = sde_window.starts(first, last, size)
    assert case["start"].tolist() == [places[random.Random(rank).randint(0, len(places) - 1)] for rank in case["rank"].tolist()]
    assert set(drawn(WindowConfig(size=size, first=first, last=last), 2000)[:, 0].tolist()) == set(places)
