"""Verdicts of several hosts, waited for by all: until they are there, or until somebody asks to stop."""

import threading

import numpy as np
import pytest
import reward_fakes as fakes
from thread_hosts import ThreadHosts

from editr2_jax.records import Sample, Verdict
from editr2_jax.rewards import panel
from editr2_jax.rewards.panel import Asked, Panel
from editr2_jax.rewards.suite import Suite
from editr2_jax.runtime.signals import Interrupted


class Thinking:
    """Gives no verdict before it is let."""

    name = "if"

    def __init__(self):
        self.let = threading.Event()

    def score(self, episode):
        assert self.let.wait(60)
        return Verdict(value=0.5)


@pytest.fixture
def judges():
    made = [Thinking(), Thinking()]
    yield made
    for judge in made:
        judge.let.set()


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(panel, "_LOOK_S", 0.01)


EPISODE = fakes.episode([fakes.turn()], [0, 1])
SAMPLE = Sample(session=EPISODE.session, picture=EPISODE.pictures[0])


def test_verdicts_that_are_there_are_taken_whoever_asks_to_stop(judges):
    judges[0].let.set()
    with Suite([judges[0]], {"if": 1.0}) as suite:
        asked = Panel(suite, should_stop=lambda: False)
        pending = [asked.submit([EPISODE])]
        while not pending[0].futures["if"][0].done():
            pass
        (scores,) = Panel(suite, should_stop=lambda: True).collect([Asked([SAMPLE], pending, [True])])
    np.testing.assert_array_equal(scores.combined, [[0.5]])


def test_a_judge_that_thinks_is_not_waited_for_when_asked_to_stop(judges):
    with Suite([judges[0]], {"if": 1.0}) as suite:
        asks = iter([False, False, True])
        waiting = Panel(suite, should_stop=lambda: next(asks))
        with pytest.raises(Interrupted, match="stopped before 1 verdicts had come"):
            waiting.collect([Asked([SAMPLE], [waiting.submit([EPISODE])], [True])])
        assert not list(asks)
        judges[0].let.set()


def collect(together, judges, *, stop=None):
    """Both hosts' scores of two rollouts, one on each."""

    def one(index):
        with Suite([judges[index]], {"if": 1.0}) as suite:
            mine = Panel(suite, together, should_stop=lambda: together.agree(stop is not None and index == stop))
            pending = [mine.submit([EPISODE])]
            try:
                return mine.collect([Asked([SAMPLE, SAMPLE], pending, [index == 0, index == 1])])[0].combined
            finally:
                judges[index].let.set()

    return together.run(one)


def test_hosts_wait_for_the_slowest_judge_and_learn_all(judges):
    judges[0].let.set()
    threading.Timer(0.2, judges[1].let.set).start()
    for scores in collect(ThreadHosts(2), judges):
        np.testing.assert_array_equal(scores, [[0.5], [0.5]])


@pytest.mark.parametrize("stop", [0, 1])
def test_one_host_that_is_asked_to_stop_stops_all(judges, stop):
    judges[0].let.set()  # it has its verdict, and waits for the other host's
    assert all(isinstance(told, Interrupted) for told in collect(ThreadHosts(2), judges, stop=stop))


def test_judges_that_never_answer_are_an_error_on_some_host(judges):
    told = collect(ThreadHosts(2, stuck_s=0.0), judges)
    assert all(isinstance(error, RuntimeError) and "after 0 s 1 verdicts have not come to this host" in str(error) for error in told)
