"""What a misbehaving judge does to scores: it delays them or leaves them out, and never makes one up.

Every test asks a server in a process of its own, through the suite, as training does. Truth is the server's own rule, so a score that no
judge gave shows. Letters as everywhere: B rollouts, T turns.
"""

import collections
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import reward_fakes as fakes
from judge_server import JudgeServer, answerer, invented, missing, rollouts, suite, truth

from editr2_jax.evaluation import runner, tables
from editr2_jax.rewards.global_awareness import GlobalAwareness
from editr2_jax.rewards.instruction_following import InstructionFollowing, InstructionFollowingConfig
from editr2_jax.rewards.suite import TooManyErrors
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.services.answer_cache import AnswerCache


def scored(judge, tmp_path, rows=24, **settings):
    """The scores of two turns, and what was counted on the way; verdicts are stored as in a run."""
    with VerdictStore(tmp_path / "verdicts", fingerprint="f") as store, suite(judge, store=store, **settings) as judged:
        scores = judged.score(rollouts(rows))
        counts = {name.removeprefix("judge/"): count for name, count in judged.counted().items()}
    assert invented(scores) == [] and scores.combined.shape == (rows, 2)
    masked = np.zeros((rows, 2), bool)
    for name, table in scores.verdicts.items():
        bad = np.array([[verdict.status != "ok" for verdict in row] for row in table])
        np.testing.assert_array_equal(np.isnan(scores.values[name]), bad)
        masked |= bad
    np.testing.assert_array_equal(np.isnan(scores.combined), masked, "a turn without all its verdicts is masked, and no other")
    assert scores.error_share == pytest.approx(sum(missing(scores).values()) / (rows * 4))
    return scores, counts


def test_a_judge_without_faults_gives_the_truth(server, tmp_path):
    scores, counts = scored(answerer(server), tmp_path)
    assert missing(scores) == {} and counts["requests"] == counts["answers"] == 24 * 4
    assert scores.verdicts["ga"][0][1].value == truth("ga", 0, 1) == 0.0 and scores.verdicts["ga"][0][0].value == 1.0
    assert all(len(table[0][0].detail["prompt"]) == 12 for table in scores.verdicts.values())


@pytest.mark.slow
def test_a_third_of_the_requests_fail(server, tmp_path):
    server.control(shares={"error": 0.3})
    scores, counts = scored(answerer(server), tmp_path, rows=40)
    assert missing(scores) == {} and counts["failures_server_error"] > 20 and counts["requests"] == counts["answers"] + counts["retries"]
    assert len(server.questions()) == counts["requests"] and counts["answers"] == 160


@pytest.mark.slow
def test_a_fifth_of_the_requests_hang(server, tmp_path):
    server.control(shares={"hang": 0.2})
    scores, counts = scored(answerer(server, timeout_s=2.0), tmp_path, rows=16)
    assert missing(scores) == {} and counts["failures_timeout"] >= 4


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("reset", "connection"), ("malformed", "malformed"), ("schemaless", "malformed"), ("null", "malformed"), ("busy", "busy")],
)
def test_a_quarter_of_the_answers_are_cut_off_or_broken(server, tmp_path, fault, kind):
    server.control(shares={fault: 0.25}, retry_after=0)
    scores, counts = scored(answerer(server), tmp_path)
    assert missing(scores) == {} and counts[f"failures_{kind}"] >= 6 and counts["answers"] == 96


@pytest.mark.parametrize("fault", ["error", "reset", "malformed", "schemaless", "null", "refuse", "compressed", "redirect"])
def test_a_judge_that_only_fails_gives_no_score_at_all(server, tmp_path, fault):
    server.control(shares={fault: 1.0})
    scores, _ = scored(answerer(server, retries=1, outage_s=0.3), tmp_path, rows=8)
    assert missing(scores) == {"service_error": 32} and np.isnan(scores.combined).all()


@pytest.mark.parametrize("nonsense", ["truncated", "contradicting", "empty", "chatty", "repeated", "half"])
def test_an_answer_that_cannot_be_read_is_no_score(server, tmp_path, nonsense):
    server.control(answers={nonsense: 0.3})
    scores, counts = scored(answerer(server), tmp_path)
    assert set(missing(scores)) == {"judge_format_error"} and 0.1 < scores.error_share < 0.5
    assert counts["requests"] == 96, "what came is not asked for again"


def test_a_judge_that_talks_nothing_but_nonsense_stops_the_run(server, tmp_path):
    server.control(answers={"truncated": 1.0})
    with pytest.raises(TooManyErrors, match=r"ga: judge_format_error.* Wanted .* Repair the judge or raise max_error_share"):
        scored(answerer(server), tmp_path, max_error_share=0.05)


@pytest.mark.slow
def test_too_many_requests_with_a_word_when_to_come_back(server, tmp_path):
    """A server that takes two at a time, asked by sixteen threads."""
    server.control(capacity=2, retry_after=0.1, delay_s=0.01)
    scores, counts = scored(answerer(server), tmp_path)
    assert missing(scores) == {} and counts["rests"] >= 1 and "retries" not in counts


@pytest.mark.slow
def test_a_slow_start_is_waited_for(server, tmp_path):
    server.control(starting=True)
    awake = threading.Timer(1.5, server.control)
    awake.start()
    scores, counts = scored(answerer(server, retries=4, breaker_failures=3), tmp_path)
    awake.join()
    assert missing(scores) == {} and counts["circuits_opened"] >= 1 and counts["probes"] >= 2
    assert counts["failures_server_error"] < 40, "the circuit spares it"


@pytest.mark.slow
def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path):
    with JudgeServer(tmp_path / "server.jsonl") as late:
        late.kill()  # its port is known, and free
        start = threading.Timer(1.0, late.start)
        start.start()
        scores, counts = scored(answerer(late, retries=4), tmp_path)
        start.join()
    assert missing(scores) == {} and counts["failures_connection"] >= 1


@pytest.mark.slow
def test_an_endpoint_dies_and_returns(server, tmp_path):
    server.control(delay_s=0.02)
    dies, returns = threading.Timer(0.3, server.kill), threading.Timer(1.3, server.start)
    dies.start(), returns.start()
    scores, counts = scored(answerer(server), tmp_path, rows=60)
    dies.join(), returns.join()
    assert missing(scores) == {} and counts["failures_connection"] >= 1


def test_one_of_two_endpoints_dies_for_good(server, tmp_path):
    with JudgeServer(tmp_path / "other.jsonl") as other:
        server.control(delay_s=0.02)
        dies = threading.Timer(0.2, server.kill)
        dies.start()
        scores, counts = scored(answerer(server, other, breaker_s=60.0), tmp_path, rows=60)
        dies.join()
        assert missing(scores) == {} and counts["circuits_opened"] <= 1 and len(other.questions()) > 120


def test_an_endpoint_that_dies_for_good_stops_the_run_and_says_why(server, tmp_path):
    server.kill()
    with pytest.raises(TooManyErrors, match=r"32 of 32 verdicts failed .*No endpoint has answered for 0.5 s .*ConnectError"):
        scored(answerer(server, outage_s=0.5), tmp_path, rows=8, max_error_share=0.05)


def test_a_server_with_a_smaller_limit_of_pictures_than_was_told(server, tmp_path):
    """Questions beyond it are refused with the server's own words, once each; the others are scored."""
    server.control(max_pictures=2)
    scores, counts = scored(answerer(server), tmp_path, rows=8)
    assert missing(scores) == {"service_error": 8} and counts["failures_refused"] == 8 and "retries" not in counts
    assert "At most 2 image(s)" in scores.verdicts["ga"][3][1].detail["reason"]
    assert all(row[0].status == "ok" for row in scores.verdicts["ga"])
    told, counts = scored(answerer(server, vlm={"max_pictures": 2}), tmp_path / "told", rows=8)
    assert missing(told) == {"service_error": 8} and counts["requests"] == 24, "a limit that is known costs no request"


@pytest.mark.slow
def test_a_hundred_rollouts_at_once_with_every_fault_together(server, tmp_path):
    with JudgeServer(tmp_path / "other.jsonl") as other:
        for one in (server, other):
            faults = {"error": 0.1, "reset": 0.05, "malformed": 0.05, "busy": 0.05, "hang": 0.01}
            one.control(shares=faults, answers={"truncated": 0.02, "contradicting": 0.02}, retry_after=0.05, delay_s=0.005)
        judge = answerer(server, other, timeout_s=3.0, concurrency=16)
        scores, counts = scored(judge, tmp_path, rows=100, workers=100)
        lines = server.questions() + other.questions()
    assert set(missing(scores)) <= {"judge_format_error"} and 0 < scores.error_share < 0.12
    assert counts["answers"] == 400 and counts["requests"] == len(lines) > 450
    assert len({line["key"] for line in lines}) == 400, "tries of a question share its key"


def test_the_second_scoring_is_the_first_without_a_request(server, tmp_path):
    """Nonsense included: what cannot be read is as missing the second time. Without a server, too."""
    server.control(answers={"truncated": 0.1, "chatty": 0.1})

    def tables_of(mode, folder):
        cache = AnswerCache(tmp_path / "answers.sqlite", mode=mode)
        with suite(answerer(server, outage_s=0.2, cache=cache)) as judged:
            scores = judged.score(rollouts(12))
        records = [record(scores, row, turn) for row in range(12) for turn in range(2)]
        tables.write(tmp_path / folder, records)
        return [(tmp_path / folder / name).read_bytes() for name in (tables.SCORES, tables.SUMMARY)]

    first, asked = tables_of("use", "first"), len(server.questions())
    assert asked == 48 and b"judge_format_error" in first[0]
    assert tables_of("use", "second") == first and len(server.questions()) == asked
    server.kill()
    assert tables_of("replay", "third") == first


def record(scores, row, turn):
    verdicts = {name: table[row][turn] for name, table in scores.verdicts.items()}
    return {
        "session": str(row),
        "subset": "memory",
        "turn": turn,
        "task_type": "color_alter",
        "instruction": "paint it",
        "scores": {name: runner.number(verdict.value) for name, verdict in verdicts.items()},
        "status": {name: verdict.status.value for name, verdict in verdicts.items()},
        "reward": runner.number(scores.combined[row, turn]),
        "detail": {name: dict(verdict.detail) for name, verdict in verdicts.items()},
    }


def test_votes_differ_by_their_seed_and_are_kept_apart(server, tmp_path):
    judge = answerer(server, cache=AnswerCache(tmp_path / "a"), vlm={"temperature": 0.6})
    reward = InstructionFollowing(fakes.Detector({}), judge, config=InstructionFollowingConfig(votes=4))
    for _ in range(2):
        assert reward.score(fakes.episode([fakes.turn()], [0, 2])).detail["votes_color"] == [True] * 4
    judge.close()
    assert [question["settings"]["seed"] for question in server.questions()] == [0, 1, 2, 3]


SCORE = """
import sys
sys.path[:0] = sys.argv[3:]
import judge_server
from editr2_jax.rewards.verdict_store import VerdictStore

server = judge_server.JudgeServer("unused", port=int(sys.argv[2]))
with VerdictStore(sys.argv[1], fingerprint="f") as store, judge_server.suite(
    judge_server.answerer(server, concurrency=4), workers=4, store=store
) as judged:
    print("open", flush=True)
    scores = judged.score(judge_server.rollouts(100))
    assert judge_server.invented(scores) == []
    print("all", flush=True)
"""


@pytest.mark.slow
def test_no_request_is_sent_again_for_a_verdict_that_was_stored(server, tmp_path):
    """kill -9 of the process that scores, at random moments; EDITR2_KILLS says how often. The server's books decide."""
    chance, kills = random.Random(7), int(os.environ.get("EDITR2_KILLS", "3"))
    here, folder = Path(__file__).parent, tmp_path / "verdicts"
    command = [sys.executable, "-c", SCORE, str(folder), str(server.port), str(here), str(here.parent / "rewards"), str(here.parents[1])]
    server.control(delay_s=0.02, shares={"error": 0.05})
    for attempt in range(kills + 1):
        stored, before = about(folder), len(server.questions())
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "open\n", process.stderr.read()
            if attempt < kills:
                while len(server.questions()) < before + 10:  # under way
                    time.sleep(0.01)
                time.sleep(chance.uniform(0.0, 0.8 / kills))
                process.kill()
            out, errors = process.communicate(timeout=300)
        finally:
            process.kill()
        again = [question_about(line) for line in server.questions()[before:]]
        assert not stored & set(again), "a stored verdict was asked about again"
        assert attempt < kills or out == "all\n", errors
    assert len(about(folder)) == 400
    keys = collections.Counter(line["key"] for line in server.questions() if not line["fault"])
    assert len(keys) == 400 and sum(keys.values()) - 400 <= kills * 4, "no more than was in flight when it was killed"


def about(folder):
    """(reward, numbers of the pictures) of every verdict that is stored."""
    if not folder.exists():
        return set()
    rewards = [InstructionFollowing(fakes.Detector({}), fakes.Answerer()), GlobalAwareness(fakes.Answerer())]
    with VerdictStore(folder, fingerprint="f") as store:
        return {
            (reward.name, *(fakes.number_of(p) for p in (episode.pictures[-2:] if reward.name == "if" else episode.pictures)))
            for reward in rewards for episodes in rollouts(100) for episode in episodes
            if store.get(store.key(reward, episode)) is not None
        }  # fmt: skip


def question_about(line):
    return ("ga" if "first_failed_turn" in line["prompt"] else "if", *line["numbers"])
