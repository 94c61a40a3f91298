"""Several hosts: each asks about its own rollouts, and all know what one host would have known of all of them."""

import numpy as np
import pytest
import reward_fakes as fakes
from thread_hosts import ThreadHosts

from editr2_jax.records import Sample, Status
from editr2_jax.rewards import suite as suites
from editr2_jax.rewards.panel import Asked, Panel
from editr2_jax.rewards.suite import Suite, TooManyErrors
from editr2_jax.rewards.verdict_store import VerdictStore

TURNS, MEMBERS, SESSIONS = 2, 3, 2
ROWS = MEMBERS * SESSIONS


def episode(row, turn):
    return fakes.episode([fakes.turn()] * TURNS, [0, *(10 * row + 1 + t for t in range(turn + 1))], "memory", f"train/{row // MEMBERS}")


SAMPLES = [Sample(session=episode(row, 0).session, picture=fakes.picture(0), group=row // MEMBERS) for row in range(ROWS)]


class ByPicture:
    """A number of the latest picture; session 0's first turn cannot be measured, one rollout's service fails."""

    name = "cc"

    def score(self, episode):
        number = fakes.number_of(episode.pictures[-1])
        if number == 52:
            raise ConnectionError("down")
        unseen = episode.session.id == "train/0" and episode.turn == 0
        return fakes.FixedReward("cc", default=Status.UNMEASURABLE if unseen else number / 100).score(episode)


def played(folder, exchange, index, count, limit):
    """The scores that host `index` learns; row r lies with host r mod count, so that groups span hosts."""
    here = [row % count == index for row in range(ROWS)]
    rewards = [fakes.FixedReward("if", default=0.5), ByPicture()]
    with (
        VerdictStore(folder, fingerprint="f", process=index, processes=count) as store,
        Suite(rewards, {"if": 0.4, "cc": 0.6}, store=store, max_error_share=limit) as suite,
    ):
        panel = Panel(suite, exchange)
        turns = [panel.submit([episode(row, t) if here[row] else None for row in range(ROWS)]) for t in range(TURNS)]
        return panel.collect([Asked(SAMPLES, turns, here)])


def on_hosts(folder, count, limit=1.0):
    """What each host learns, or what it raises."""
    hosts = ThreadHosts(count)
    return hosts.run(lambda index: played(folder, hosts, index, count, limit))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_host_learns_what_one_host_would_have(tmp_path, count):
    ((alone,),) = on_hosts(tmp_path / "alone", 1)
    assert np.isnan(alone.combined).sum() == 1 and alone.weights["cc"][:MEMBERS, 0].tolist() == [0.0] * MEMBERS
    for (scores,) in on_hosts(tmp_path / "many", count):
        np.testing.assert_array_equal(scores.combined, alone.combined)
        for name in ("if", "cc"):
            np.testing.assert_array_equal(scores.values[name], alone.values[name])
            np.testing.assert_array_equal(scores.weights[name], alone.weights[name])
            np.testing.assert_array_equal(scores.statuses(name), alone.statuses(name))
        assert (scores.error_share, scores.stored_share) == (alone.error_share, alone.stored_share)
        assert repr(scores.verdicts) == repr(alone.verdicts)


def test_too_many_failures_stop_every_host(tmp_path):
    told = on_hosts(tmp_path, 2, limit=0.01)
    assert [type(error) for error in told] == [TooManyErrors] * 2 and str(told[0]) == str(told[1])
    assert "1 of 24 verdicts failed" in str(told[0]) and "down" in str(told[0])


def test_the_limit_is_one_of_all_batches(tmp_path):
    here = [True]
    with Suite([ByPicture()], {"cc": 1.0}, max_error_share=0.05) as suite:
        panel = Panel(suite)
        bad, good = [panel.submit([episode(5, 1)])], [panel.submit([episode(4, 1)])]
        scores = panel.collect([Asked(SAMPLES[5:], bad, here), *[Asked(SAMPLES[4:5], good, here)] * 19])
        assert suites.error_share(scores) == pytest.approx(0.05) and len(scores) == 20
        with pytest.raises(TooManyErrors):
            panel.collect([Asked(SAMPLES[5:], bad, here)])
