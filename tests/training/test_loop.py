import jax.numpy as jnp
import pytest

from editr2_jax.runtime import metrics as metrics_files
from editr2_jax.runtime.metrics import MetricsWriter
from editr2_jax.runtime.signals import Interrupted
from editr2_jax.training import loop
from editr2_jax.training.loop import LoopConfig
from editr2_jax.training.state import NonFiniteLoss, TrainState


class Recipe:
    """Remembers what it was asked to do; the weights count its steps."""

    def __init__(self, losses=None):
        self.asked, self._losses = [], losses or {}

    def step(self, state, sessions, step):
        self.asked.append((step, sessions))
        counted = TrainState(trainable=state.trainable + 1, moments=state.moments, step=state.step)
        return counted, {"loss/total": jnp.float32(self._losses.get(step, step)), "reward/mean": 0.5}


class Out:
    def __init__(self):
        self.written, self.said = {}, []

    def write(self, step, metrics):
        self.written[step] = metrics

    def say(self, text):
        self.said.append(text)


def _state(step: int = 0) -> TrainState:
    return TrainState(trainable=jnp.float32(step), moments=(), step=jnp.asarray(step, jnp.int32))


def _run(start=0, *, stop_after=None, recipe=None, events=None, interrupted=None, **config):
    """Runs fake steps; returns everything that happened, in order."""
    recipe, out, events = recipe or Recipe(), Out(), [] if events is None else events

    def look(state):
        events.append(("look", int(state.step)))
        if int(state.step) == interrupted:
            raise Interrupted("stopped after turn 1 of 3.")

    state = loop.run(
        _state(start),
        iter(f"sessions {i}" for i in range(start, 100)),
        recipe=recipe,
        config=LoopConfig(**config),
        out=out,
        save=lambda state: events.append(("save", int(state.step))),
        look=look,
        stop_requested=lambda: stop_after is not None and len(recipe.asked) >= stop_after,
    )
    return state, recipe, out, events


def test_every_step_gets_its_sessions_and_its_number():
    state, recipe, out, _ = _run(steps=3)
    assert recipe.asked == [(i, f"sessions {i}") for i in range(3)]
    assert int(state.step) == 3 and float(state.trainable) == 3
    assert list(out.written) == [0, 1, 2] and not out.said


def test_metrics_are_numbers_with_the_times_of_the_step():
    _, _, out, _ = _run(steps=1)
    assert out.written[0].keys() == {"loss/total", "reward/mean", "time/data_s", "time/step_s", "idle/data_share"}
    assert all(type(value) is float for value in out.written[0].values())


def test_saves_come_every_so_often_and_at_the_end_and_a_look_after_each_step():
    *_, events = _run(steps=5, save_every=2)
    assert [step for what, step in events if what == "save"] == [2, 4, 5]
    assert [step for what, step in events if what == "look"] == [1, 2, 3, 4, 5]
    assert events[1:3] == [("save", 2), ("look", 2)]  # what is looked at is already safe


def test_a_last_step_that_is_also_due_is_saved_once():
    *_, events = _run(steps=4, save_every=2)
    assert [step for what, step in events if what == "save"] == [2, 4]


def test_a_request_to_stop_ends_the_run_after_its_step_saved():
    state, recipe, out, events = _run(steps=10, save_every=100, log_every=100, stop_after=3)
    assert int(state.step) == 3 and len(recipe.asked) == 3
    assert [step for what, step in events if what == "save"] == [3]
    assert list(out.written) == [0, 2]  # the last step before the end is written
    assert out.said == ["stopped after step 3 of 10, saved; the same command goes on from here."]


def test_a_look_that_is_interrupted_leaves_its_step_saved():
    state, recipe, out, events = _run(steps=10, save_every=100, interrupted=3)
    assert int(state.step) == 3 == len(recipe.asked) and events[-2:] == [("look", 3), ("save", 3)]
    assert out.said == ["after step 3 of 10: stopped after turn 1 of 3. Saved; the same command goes on from there."]


def test_a_request_in_the_last_step_changes_nothing():
    state, _, out, events = _run(steps=3, stop_after=3)
    assert int(state.step) == 3 and not out.said and ("save", 3) in events


def test_a_run_goes_on_where_it_was_saved():
    whole, *_ = _run(steps=5)
    resumed, recipe, out, events = _run(3, steps=5, save_every=2)
    assert [step for step, _ in recipe.asked] == [3, 4] == list(out.written)
    assert [step for what, step in events if what == "save"] == [4, 5]
    assert float(resumed.trainable) == float(whole.trainable) and int(resumed.step) == 5


def test_a_finished_run_does_nothing():
    _, recipe, out, events = _run(5, steps=5)
    assert not recipe.asked and not out.written and not events


def test_a_step_whose_loss_is_no_number_is_not_saved():
    events = []
    with pytest.raises(NonFiniteLoss, match="step 3: loss/total = nan"):
        _run(steps=9, save_every=2, log_every=100, recipe=Recipe({3: float("nan")}), events=events)
    assert [step for what, step in events if what == "save"] == [2]


def test_a_run_without_steps_is_refused():
    for name in ("steps", "save_every", "log_every"):
        with pytest.raises(ValueError, match=f"LoopConfig.{name} is 0; give at least 1"):
            LoopConfig(**{"steps": 1} | {name: 0})


@pytest.mark.parametrize(("log_every", "logged"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3, 4]), (50, [0, 4])])
def test_metrics_are_fetched_every_so_often_and_at_the_end(log_every, logged):
    _, _, out, _ = _run(steps=5, log_every=log_every)
    assert list(out.written) == logged


def test_what_a_step_says_reaches_the_record(tmp_path):
    with MetricsWriter(tmp_path, start=0, total=2) as out:
        loop.run(_state(), iter("ab"), recipe=Recipe(), config=LoopConfig(steps=2), out=out, save=lambda state: None)
    assert [(line["step"], line["loss/total"]) for line in metrics_files.read(tmp_path)] == [(0, 0.0), (1, 1.0)]
