"""A verdict that was given is never paid twice; one that was not given is asked again."""

import collections
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import reward_fakes as fakes
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.records import Status, Verdict
from editr2_jax.rewards import base, global_awareness, instruction_following, questions, suite
from editr2_jax.rewards.verdict_store import VerdictStore


def store(folder, fingerprint="f", **more):
    return VerdictStore(folder, fingerprint=fingerprint, **more)


def episode(pictures=(1, 2), id="s/0", **more):
    return fakes.episode([fakes.turn(**more)] * (len(pictures) - 1), pictures, id=id)


def test_a_verdict_comes_back_as_it_was_used(tmp_path):
    given_ = {
        "a": Verdict(value=0.1 + 0.2, detail={"words": 'he said "é"\n', "parts": (1, 2), "score": np.float32(0.5)}),
        "b": base.missing(Status.UNMEASURABLE, "nothing there"),
        "c": base.missing(Status.NOT_APPLICABLE, "by annotation"),
    }
    with store(tmp_path) as first:
        used = {key: first.put(key, verdict, reward="if") for key, verdict in given_.items()}
        assert first.get("none") is None
    with store(tmp_path) as second:
        for key, verdict in used.items():
            assert repr(second.get(key)) == repr(verdict) and verdict.status == given_[key].status
        assert second.get("a").value == 0.1 + 0.2 and second.get("a").detail["parts"] == [1, 2] and len(second) == 3


@pytest.mark.parametrize("status", [Status.SERVICE_ERROR, Status.JUDGE_FORMAT_ERROR])
def test_a_verdict_that_was_not_given_is_written_down_and_asked_again(tmp_path, status):
    with store(tmp_path) as first:
        first.put("a", base.missing(status, "timeout"), reward="if")
        assert first.get("a") is None
        assert json.loads((tmp_path / "0.jsonl").read_text())["detail"] == {"reason": "timeout"}
        first.put("a", Verdict(value=1.0), reward="if")
    with store(tmp_path) as second:
        assert second.get("a").value == 1.0


def test_what_a_verdict_depends_on(tmp_path):
    reward, other = fakes.FixedReward("if"), fakes.FixedReward("cc")
    with store(tmp_path) as one, store(tmp_path / "other", fingerprint="g") as settings:
        base_key = one.key(reward, episode())
        assert one.key(reward, episode()) == base_key
        repainted = [fakes.picture(1), fakes.picture(2)]
        repainted[0][-1, -1, -1] = 1
        changed = [
            one.key(other, episode()),
            settings.key(reward, episode()),
            one.key(reward, episode(id="s/1")),
            one.key(reward, episode((1, 3))),
            one.key(reward, episode((1, 2, 2))),
            one.key(reward, episode(repainted)),
            one.key(reward, episode([fakes.picture(1).reshape(4, 16, 3), fakes.picture(2)])),
            one.key(reward, episode(formatted="Change the color of [red ball] to [green]")),
            one.key(reward, episode(unchanged_objects=("box",))),
        ]
        reward.fingerprint = "votes=4"
        changed.append(one.key(reward, episode()))
    assert len({base_key, *changed}) == 1 + len(changed)


def judged(folder, answerer):
    """The scores of three rewards on one turn, through the store of a folder."""
    rewards = [
        instruction_following.InstructionFollowing(fakes.Detector({}), answerer),
        global_awareness.GlobalAwareness(answerer),
        fakes.FixedReward("cc"),
    ]
    turn = fakes.episode([fakes.turn()], (1, 2), "memory")
    with store(folder) as kept, suite.Suite(rewards, {"if": 0.5, "ga": 0.5}, store=kept) as asked:
        scores = asked.score([[turn]])
    return [float(scores.values[name][0, 0]) for name in ("if", "ga", "cc")], scores.stored_share


def test_a_changed_prompt_finds_no_verdict_of_the_old_one(tmp_path, monkeypatch):
    good = json.dumps({"reason": "", "turns": [{"edit": True, "rule": True}], "first_failed_turn": 0})
    bad = json.dumps({"reason": "", "turns": [{"edit": False, "rule": True}], "first_failed_turn": 1})
    yes, no = fakes.Answerer({"color": "yes", "prefix": good}), fakes.Answerer({"color": "no", "prefix": bad})
    assert judged(tmp_path, yes) == ([1, 1, 1], 0)
    assert judged(tmp_path, no) == ([1, 1, 1], 1) and not no.asked
    monkeypatch.setitem(questions._TEXTS, "color", lambda fields: f"Is the {fields['object']} {fields['value']}? Yes or no.")
    assert judged(tmp_path, no) == ([0, 1, 1], pytest.approx(2 / 3)), "the wording of IF's question changed, no other"
    monkeypatch.setattr(questions, "PROMPT_VERSION", "another")
    assert judged(tmp_path, no) == ([0, 0, 1], pytest.approx(1 / 3)), "CC asks nobody"


def test_half_an_emoji_does_not_stop_a_run(tmp_path):
    """JSON may hold one, UTF-8 cannot: a judge's answer that was cut in the middle of an escape."""
    reason = json.loads(r'"done \ud83d"')
    good = json.dumps({"reason": reason, "turns": [{"edit": True, "rule": True}], "first_failed_turn": 0})
    reward = global_awareness.GlobalAwareness(fakes.Answerer({"prefix": good}))
    turn = fakes.episode([fakes.turn()], (1, 2), "memory")
    with store(tmp_path) as kept, suite.Suite([reward], {"ga": 1.0}, store=kept) as asked:
        used = asked.score([[turn]]).verdicts["ga"][0][0]
    assert used.value == 1 and used.detail["reasons"] == ["done ?"]
    with store(tmp_path) as again:
        assert repr(again.get(again.key(reward, turn))) == repr(used) and again.unreadable == 0


def test_a_full_disk_names_the_file_and_ends_the_asking(tmp_path):
    """No verdict is used that was not written down."""
    with suite.Suite([fakes.FixedReward("if")], {"if": 1.0}, store=(kept := store(tmp_path))) as asked:
        kept._file.close()
        kept._file = open("/dev/full", "ab")
        with pytest.raises(OSError, match=r"No space left.*0\.jsonl"):
            asked.score([[episode()]])
    with pytest.raises(OSError):
        kept.close()
    assert not (tmp_path / "0.jsonl").read_bytes()


WHOLE = b'{"key": "c", "step": 0, "reward": "if", "value": 1.0, "status": "ok", "detail": {}}'  # but for its end


@pytest.mark.parametrize("torn", [WHOLE[:14], WHOLE, b"\0\0\0"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    with store(tmp_path) as first:
        first.put("a", Verdict(value=0.25), reward="if")
    with open(tmp_path / "0.jsonl", "ab") as file:
        file.write(torn)
    with store(tmp_path) as second:
        assert second.get("c") is None and len(second) == 1
        second.put("d", Verdict(value=0.5), reward="if")
    with store(tmp_path) as third:
        assert third.get("a").value == 0.25 and third.get("d").value == 0.5 and third.unreadable == 0


def test_a_line_that_is_no_verdict_is_skipped_and_counted(tmp_path):
    with store(tmp_path) as first:
        first.put("a", Verdict(value=0.25), reward="if")
    with open(tmp_path / "0.jsonl", "a") as file:
        file.write('nonsense\n{"key": "b"}\n[]\n{"key": "b", "step": 0, "value": 2, "status": "service_error", "detail": {}}\n')
    with store(tmp_path) as second:
        assert second.unreadable == 4 and len(second) == 1


def test_old_verdicts_are_forgotten_and_the_file_shrinks(tmp_path):
    with store(tmp_path) as kept:
        for step in range(6):
            kept.step = step
            kept.put(f"k{step}", Verdict(value=step / 10), reward="if")
        size = (tmp_path / "0.jsonl").stat().st_size
        kept.forget(4)
        assert (tmp_path / "0.jsonl").stat().st_size < size / 2
        kept.put("later", Verdict(value=1.0), reward="if")
        assert [kept.get(f"k{step}") is not None for step in range(6)] == [False] * 4 + [True] * 2
    with store(tmp_path) as again:
        assert len(again) == 3 and again.get("later").value == 1.0


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    many = [store(tmp_path, process=process, processes=3) for process in range(3)]
    for process, one in enumerate(many):
        one.step = process
        one.put(f"k{process}", Verdict(value=0.5), reward="if")
        one.close()
    with store(tmp_path) as alone:
        assert len(alone) == 3
        alone.forget(2)
        assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["0.jsonl", "1.jsonl", "2.jsonl"]
        assert (tmp_path / "1.jsonl").read_text() == ""
    with store(tmp_path, process=1, processes=2) as one_of_two:
        assert one_of_two.get("k2") is not None and len(one_of_two) == 1


def test_many_threads_lose_nothing(tmp_path):
    with store(tmp_path) as shared:

        def put(name):
            for i in range(25):
                shared.put(f"{name}/{i}", Verdict(value=i / 100), reward="if")
                if i == 12:
                    shared.forget(0)

        threads = [threading.Thread(target=put, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with store(tmp_path) as again:
        assert len(again) == 200 and again.unreadable == 0


puts, crashes = st.tuples(st.just("put"), st.integers(0, 5)), st.tuples(st.just("crash"), st.integers(0, 60))
events = st.lists(st.one_of(puts, crashes, st.just(("forget", 0))), max_size=12)


@given(events)
def test_whatever_is_interrupted_every_verdict_is_there_once(happened):
    """A crash leaves some bytes of a line that was never used."""
    with tempfile.TemporaryDirectory() as folder:
        kept, wanted = store(folder), {}
        for what, number in happened:
            if what == "put" and kept.get(str(number)) is None:
                wanted[str(number)] = kept.put(str(number), Verdict(value=len(wanted) / 100), reward="if").value
            elif what == "forget":
                kept.forget(0)
            elif what == "crash":
                kept._file.write(json.dumps({"key": "ghost", "step": 0, "reward": "if", "value": 1.0})[:number].encode())
                kept.close()
                kept = store(folder)
            assert {key: record.verdict.value for key, record in kept._known.items()} == wanted
        kept.close()
        keys = [json.loads(line)["key"] for line in (Path(folder) / "0.jsonl").read_text().splitlines()]
        assert sorted(keys) == sorted(wanted) and kept.unreadable == 0


# With the suite ------------------------------------------------------------------------------------------------------------------


class Counting(fakes.FixedReward):
    """Counts what it is asked."""

    def __init__(self, name, *more, **given_):
        super().__init__(name, *more, **given_)
        self.asked = collections.Counter()

    def score(self, episode):
        self.asked[episode.session.id, episode.turn] += 1
        return super().score(episode)


def batch(turns=2, rows=4):
    """turns[t][b]; every row has pictures of its own."""
    pictures = lambda t, row: [0, *(10 * row + 1 + i for i in range(t + 1))]  # noqa: E731
    made = lambda t, row: fakes.episode([fakes.turn()] * turns, pictures(t, row), "memory", f"train/{row // 2}")  # noqa: E731
    return [[made(t, row) for row in range(rows)] for t in range(turns)]


def test_a_rollout_that_is_played_again_costs_nothing(tmp_path):
    def run():
        rewards = [Counting("if", default=0.75), Counting("cc", {("train/0", 0): Status.UNMEASURABLE}, default=0.5)]
        with store(tmp_path) as kept, suite.Suite(rewards, {"if": 0.5, "cc": 0.5}, store=kept) as judged:
            return judged.score(batch()), sum(reward.asked.total() for reward in rewards)

    (first, paid), (again, free) = run(), run()
    assert (paid, free) == (16, 0) and (first.stored_share, again.stored_share) == (0.0, 1.0)
    np.testing.assert_array_equal(again.combined, first.combined)
    assert repr(again.verdicts) == repr(first.verdicts)


def test_half_of_it_is_half_paid_and_failures_are_asked_again(tmp_path):
    broken = Counting("if", {("train/1", 1): ConnectionError("down")}, default=0.75)
    with store(tmp_path) as kept, suite.Suite([broken], {"if": 1.0}, store=kept, max_error_share=1.0) as judged:
        assert np.isnan(judged.score(batch()).combined).sum() == 2
        broken.verdicts.clear()
        scores = judged.score(batch())
    assert scores.stored_share == 0.75 and not np.isnan(scores.combined).any()
    assert broken.asked == {("train/0", 0): 2, ("train/0", 1): 2, ("train/1", 0): 2, ("train/1", 1): 4}  # of two members each


def test_rollouts_that_look_alike_are_asked_about_once_at_a_time(tmp_path):
    """Members of a group whose pictures are the same while the judge still thinks; its failure is everybody's."""

    class Slow(Counting):
        answers = threading.Event()

        def score(self, episode):
            assert self.answers.wait(60)
            return super().score(episode)

    def scored(judged, reward):
        reward.answers.clear()
        pending = judged.submit([fakes.episode([fakes.turn()], [0, 1])] * 4)
        while len(pending.stored) < 4:  # each has looked whether somebody asks
            time.sleep(0.005)
        reward.answers.set()
        return judged.collect([pending])

    slow = Slow("if", default=0.75)
    with store(tmp_path) as kept, suite.Suite([slow], {"if": 1.0}, store=kept, max_error_share=1.0) as judged:
        scores = scored(judged, slow)
        assert slow.asked.total() == 1 and scores.stored_share == 0.75 and (scores.combined == 0.75).all()
    broken = Slow("cc", default=ConnectionError("down"))
    with store(tmp_path / "broken") as kept, suite.Suite([broken], {"cc": 1.0}, store=kept, max_error_share=1.0) as judged:
        assert np.isnan(scored(judged, broken).combined).all() and broken.asked.total() == 1
        assert np.isnan(scored(judged, broken).combined).all() and broken.asked.total() == 2


def test_without_a_store_nothing_is_kept():
    with suite.Suite([Counting("if")], {"if": 1.0}) as judged:
        assert judged.score(batch()).stored_share == 0.0


ASK_FOR_EVER = """
import os, sys, time
sys.path[:0] = sys.argv[3:]
import reward_fakes as fakes
from editr2_jax.records import Verdict
from editr2_jax.rewards import suite
from editr2_jax.rewards.verdict_store import VerdictStore

class Paid:
    def __init__(self, name, bill):
        self.name, self.bill = name, bill

    def score(self, episode):
        time.sleep(0.001)
        os.write(self.bill, f"{self.name} {episode.session.id}\\n".encode())  # the judge's own books, which no kill touches
        return Verdict(value=(fakes.number_of(episode.pictures[1]) % 7) / 7)

bill = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with VerdictStore(sys.argv[1], fingerprint="f") as store, suite.Suite(
    [Paid("if", bill), Paid("cc", bill)], {"if": 0.5, "cc": 0.5}, workers=4, store=store
) as judged:
    print("open", flush=True)
    for row in range(250):  # the rollouts of a step are drawn again, bit for bit
        scores = judged.score([[fakes.episode([fakes.turn()], [0, 1 + row], id=str(row))]])
        print(row, scores.combined[0, 0], flush=True)
    print("all", flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_pay_at_most_what_was_in_flight(tmp_path):
    """EDITR2_KILLS says how often."""
    chance, kills = random.Random(5), int(os.environ.get("EDITR2_KILLS", "3"))
    here = Path(__file__).parent
    command = [sys.executable, "-c", ASK_FOR_EVER, str(tmp_path / "verdicts"), str(tmp_path / "bill"), str(here), str(here.parents[1])]
    told: dict[str, str] = {}
    for attempt in range(kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "open\n", process.stderr.read()
            if attempt < kills:
                time.sleep(chance.uniform(0.0, 0.4 / kills))
                process.kill()
            out, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        for row, score in (line.split() for line in out.splitlines() if line.count(" ") == 1 and line[-1].isdigit()):
            told.setdefault(row, score)
        if attempt == kills:
            assert out.endswith("all\n"), errors
    asked = collections.Counter((tmp_path / "bill").read_text().splitlines())
    assert set(asked) == {f"{name} {row}" for name in ("if", "cc") for row in range(250)}
    twice = sum(asked.values()) - len(asked)
    assert twice <= kills * 2, asked.most_common(3)  # two verdicts are in flight at a time
    with store(tmp_path / "verdicts") as kept:
        assert len(kept) == 500 and kept.unreadable == 0
    keys = [json.loads(line)["key"] for line in (tmp_path / "verdicts" / "0.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 500, "what was stored was asked again"
    assert all(math.isclose(float(score), (1 + int(row)) % 256 % 7 / 7, abs_tol=1e-6) for row, score in told.items() if len(score) > 4)
