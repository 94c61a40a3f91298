"""Half-done rollouts: what is played on from the disk is what would have been played, bit for bit."""

import collections
import concurrent.futures
import copy
import dataclasses
import functools
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny_world

from editr2_jax.flow.denoise import Denoised, Trajectory
from editr2_jax.policies.intent_policy import Intent
from editr2_jax.porting import safetensors_io
from editr2_jax.records import Verdict
from editr2_jax.rewards.suite import Suite
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.rollouts import collect, spool
from editr2_jax.rollouts.spool import Spool, Turn
from editr2_jax.runtime.signals import Interrupted


def spooled(folder, samples=None, *, step=4, batch=0, settings=None, **more):
    return Spool(folder, samples or tiny_world.samples(), step=step, batch=batch, settings=settings or {"config": "abc", "seed": 3}, **more)


def made(rows=4, steps=2):
    draw = np.random.default_rng(1).standard_normal
    trajectory = Trajectory(
        x=jnp.asarray(draw((rows, steps, 6, 3)), jnp.bfloat16),
        x_next=jnp.asarray(draw((rows, steps, 6, 3)), jnp.float32),
        log_prob=jnp.full((rows, steps), np.nextafter(np.float32(1), np.float32(2))),
        t=jnp.ones((rows, steps)),
        t_next=jnp.zeros((rows, steps)),
        step=jnp.ones((rows, steps), jnp.int32),
    )
    return Turn(
        picture=np.arange(rows * 12, dtype=np.uint8).reshape(rows, 2, 2, 3),
        drawn=Denoised(latent=jnp.asarray(draw((rows, 6, 3)), jnp.float32), trajectory=trajectory),
        intent=Intent(tokens=jnp.ones((rows, 5), jnp.int32), count=jnp.zeros(rows, jnp.int32), log_prob=jnp.full((rows, 5), -0.1)),
        texts=(("paint it", None, False), ("make «it» red\n", "hm</think>make it red", False), ("", "?", True), ("a", "b", False))[:rows],
    )


def parts_of(turn):
    return jax.tree.leaves((turn.picture, turn.drawn, turn.intent))


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("steps", [2, 0])
def test_a_turn_comes_back_bit_for_bit(tmp_path, steps):
    turn = made(steps=steps)
    spooled(tmp_path).store(1, turn)
    back = spooled(tmp_path).load(1)
    assert_same(parts_of(back), parts_of(turn))
    assert back.texts == turn.texts and back.drawn.trajectory.x.dtype == ml_dtypes.bfloat16
    assert spooled(tmp_path).load(0) is None and [path.name for path in tmp_path.iterdir()] == ["4-0-1-0.safetensors"]


def _other_samples(**fields):
    first, *rest = tiny_world.samples()
    return [dataclasses.replace(first, **fields), *rest]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"config": "abc", "seed": 4}}, "settings.seed was 3, is 4"),
        ({"samples": tiny_world.samples()[:2]}, "sessions was"),
        ({"samples": _other_samples(member=7)}, "sessions was"),
        ({"samples": _other_samples(group=7)}, "sessions was"),
        ({"samples": _other_samples(picture=tiny_world.samples()[0].picture ^ 1)}, "sessions was"),
    ],
)
def test_what_belongs_to_something_else_is_removed(tmp_path, more, said):
    told = []
    spooled(tmp_path).store(0, made())
    assert spooled(tmp_path, **more, say=told.append).load(0) is None
    assert not list(tmp_path.iterdir()) and len(told) == 1
    assert "4-0-0-0.safetensors: this half-done rollout is from something else" in told[0] and said in told[0]


def _rename(path):
    path.rename(path.with_name("4-0-1-0.safetensors"))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _without_record(path):
    safetensors_io.write(path, {"x": ((1,), np.float32, lambda: np.zeros(1, np.float32))})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (_flip, "damaged"),
        (_without_record, "damaged"),
        (_rename, "turn was 0, is 1"),
    ],
)
def test_what_is_damaged_is_removed(tmp_path, harm, said):
    told = []
    spooled(tmp_path).store(0, made())
    harm(tmp_path / "4-0-0-0.safetensors")
    again = spooled(tmp_path, say=told.append)
    assert again.load(0) is None and again.load(1) is None
    assert not list(tmp_path.iterdir()) and len(told) == 1 and said in told[0] and "drawn again" in told[0]


def test_steps_that_are_over_are_cleared(tmp_path):
    for step in (3, 4, 10):
        spooled(tmp_path, step=step).store(0, made())
    (tmp_path / "10-0-1-0.safetensors.unfinished").write_bytes(b"half")
    (tmp_path / "note-of-some-one.safetensors").write_bytes(b"")
    spool.clear_before(tmp_path, 4)
    left = ["10-0-0-0.safetensors", "4-0-0-0.safetensors", "note-of-some-one.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    spool.clear_before(tmp_path / "none", 4)


def test_a_process_keeps_its_own_rows(tmp_path):
    turn, offset = made(), 2
    take = lambda array: np.asarray(array)[offset:]  # noqa: E731
    place = lambda rows: jnp.concatenate([jnp.zeros((offset, *rows.shape[1:]), rows.dtype), rows])  # noqa: E731
    spooled(tmp_path, take=take, place=place).store(0, turn)
    back = spooled(tmp_path, take=take, place=place).load(0)
    assert_same(map(take, parts_of(back)), map(take, parts_of(turn)))


def test_a_turn_is_there_when_every_process_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(spool.jax, "process_count", lambda: 2)
    spooled(tmp_path).store(0, made())
    for others, there in ((True, True), (False, False)):
        gather = lambda mine, others=others: np.asarray([mine, others])  # noqa: E731
        monkeypatch.setattr(spool.multihost_utils, "process_allgather", gather)
        assert (spooled(tmp_path).load(0) is not None) == there
        assert spooled(tmp_path).load(1) is None
    monkeypatch.undo()
    assert spooled(tmp_path).load(0) is None  # another number of processes: these are not all the rows


def test_a_digest_tells_weights_apart_by_their_bits():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((2, 2), jnp.bfloat16), "c": jnp.zeros((), jnp.int32)}
    digest = spool.weights_digest(tree)
    assert spool.weights_digest(jax.tree.map(jnp.copy, tree)) == digest and len(digest) == 8
    others = [
        tree | {"a": tree["a"].at[0, 0].set(-0.0)},  # a bit that no comparison of numbers sees
        tree | {"a": tree["a"][::-1]},
        tree | {"a": tree["a"].at[1, 2].set(np.nextafter(np.float32(5), np.float32(6)))},
        tree | {"b": tree["b"].at[0, 1].set(2)},
        tree | {"c": jnp.ones((), jnp.int32)},
        tree | {"a": tree["a"].reshape(3, 2)},
    ]
    assert len({digest, *map(spool.weights_digest, others)}) == 7


STORE_FOR_EVER = """
import sys
sys.path[:0] = sys.argv[2:]
import test_spool
turns = [test_spool.made(rows=4), test_spool.made(rows=4, steps=400)]
print("open", flush=True)
while True:
    for turn in turns:
        test_spool.spooled(sys.argv[1]).store(0, turn)
"""


@pytest.mark.slow
def test_a_kill_while_a_turn_is_stored_leaves_a_whole_one_or_none(tmp_path):
    """EDITR2_KILLS says how often."""
    here, chance, told = Path(__file__).parent, random.Random(2), []
    paths = [here, here.parent, here.parent / "golden", here.parents[1]]
    for _ in range(int(os.environ.get("EDITR2_KILLS", "3"))):
        command = [sys.executable, "-c", STORE_FOR_EVER, *map(str, [tmp_path, *paths])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "open\n", process.stderr.read()
            time.sleep(chance.uniform(0.0, 0.1))
        finally:
            process.kill()
            process.communicate()
        back = spooled(tmp_path, say=told.append).load(0)
        if back is not None:
            assert_same(parts_of(back), parts_of(made(steps=back.drawn.trajectory.x.shape[1])))
    assert not told  # nothing was ever damaged
    spool.clear_before(tmp_path, 4)
    assert not list(tmp_path.glob("*.unfinished"))


# Play ----------------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As from outside."""


def counted(by=None):
    """The player, and how often it draws and thinks."""
    player, calls = copy.copy(by or tiny_world.player()), {"draw": 0, "think": 0}

    def count(name):
        real = getattr(player, name)

        @functools.wraps(real)
        def call(*given, **more):
            calls[name] += 1
            return real(*given, **more)

        setattr(player, name, call)

    count("draw"), count("think")
    return player, calls


def assert_same_rollout(one, other):
    assert jax.tree.structure(one.played) == jax.tree.structure(other.played)
    assert_same(jax.tree.leaves(one.played), jax.tree.leaves(other.played))
    assert_same([one.pictures, one.fallback], [other.pictures, other.fallback])
    assert (one.intents, one.answers, one.samples) == (other.intents, other.answers, other.samples)


def kill_after(turn):
    def on_turn(t, episodes):
        if t == turn:
            raise Killed

    return on_turn


@pytest.mark.slow
@pytest.mark.parametrize(("after", "calls"), [(0, {"draw": 1, "think": 1}), (1, {"draw": 0, "think": 0})])
def test_play_goes_on_after_a_kill(tmp_path, after, calls):
    with pytest.raises(Killed):
        tiny_world.play(spool=spooled(tmp_path), on_turn=kill_after(after))
    player, counts = counted()
    told = []
    again = tiny_world.play(by=player, spool=spooled(tmp_path), on_turn=lambda t, episodes: told.append((t, episodes)))
    assert counts == calls
    assert_same_rollout(again, tiny_world.rollout())
    for t, episodes in told:  # judges hear of spooled turns too
        for row, episode in enumerate(episodes):
            assert_same(episode.pictures, [again.samples[row].picture, *again.pictures[row, : t + 1]])
    assert [t for t, _ in told] == [0, 1]


class Judge:
    """Gives every episode a verdict, and counts how often it was asked about its pictures."""

    name = "if"

    def __init__(self):
        self.asked = collections.Counter()

    def score(self, episode):
        self.asked[episode.session.id, tuple(picture.tobytes() for picture in episode.pictures)] += 1
        return Verdict(value=float(episode.pictures[-1].mean()) / 255)


@pytest.mark.slow
def test_a_kill_costs_neither_pictures_nor_verdicts(tmp_path):
    judge = Judge()

    def play(player=None, kill=False):
        with VerdictStore(tmp_path / "verdicts", fingerprint="f") as store, Suite([judge], {"if": 1.0}, store=store) as suite:
            pending = []

            def on_turn(t, episodes):
                pending.append(suite.submit(episodes))
                if kill:
                    concurrent.futures.wait(pending[0].futures["if"])
                    raise Killed

            tiny_world.play(by=player, spool=spooled(tmp_path / "spool"), on_turn=on_turn)
            return suite.collect(pending)

    with pytest.raises(Killed):
        play(kill=True)
    player, counts = counted()
    scores = play(player)
    assert counts == {"draw": 1, "think": 1} and scores.stored_share == 0.5
    assert set(judge.asked.values()) == {1} and len(judge.asked) == 8  # 4 rows, 2 turns
    assert play().stored_share == 1.0 and set(judge.asked.values()) == {1}


@pytest.mark.slow
def test_three_turns_are_played_on_from_the_second(tmp_path):
    longer = copy.copy(tiny_world.player())
    longer.config = dataclasses.replace(longer.config, turns=3)
    whole = tiny_world.play(tiny_world.samples(3), by=longer)
    keep = functools.partial(spooled, tmp_path, tiny_world.samples(3))
    with pytest.raises(Killed):
        tiny_world.play(tiny_world.samples(3), by=longer, spool=keep(), on_turn=kill_after(1))
    player, counts = counted(longer)
    assert_same_rollout(tiny_world.play(tiny_world.samples(3), by=player, spool=keep()), whole)
    assert counts == {"draw": 1, "think": 1}
    (tmp_path / "4-0-1-0.safetensors").unlink()  # what follows a gap is not trusted
    player, counts = counted(longer)
    assert_same_rollout(tiny_world.play(tiny_world.samples(3), by=player, spool=keep()), whole)
    assert counts == {"draw": 2, "think": 2}


@pytest.mark.slow
def test_a_spool_changes_nothing_and_neither_does_one_of_another_run(tmp_path):
    told = []
    assert_same_rollout(tiny_world.play(spool=spooled(tmp_path)), tiny_world.rollout())
    player, counts = counted()
    other = spooled(tmp_path, settings={"config": "another", "seed": 3}, say=told.append)
    assert_same_rollout(tiny_world.play(by=player, spool=other), tiny_world.rollout())
    assert counts == {"draw": 2, "think": 1} and len(told) == 1  # the second file was replaced, unread


@pytest.mark.slow
def test_play_stops_between_turns_when_asked(tmp_path):
    stop = mock.Mock(side_effect=[True])
    with pytest.raises(Interrupted, match="stopped after turn 0 of 2"):
        tiny_world.play(spool=spooled(tmp_path), should_stop=stop)
    player, counts = counted()
    with pytest.raises(Interrupted, match="stopped after turn 1 of 2"):
        tiny_world.play(by=player, spool=spooled(tmp_path), should_stop=mock.Mock(side_effect=[False, True]))
    player, counts = counted()
    assert_same_rollout(tiny_world.play(by=player, spool=spooled(tmp_path)), tiny_world.rollout())
    assert counts == {"draw": 0, "think": 0}


@pytest.mark.slow
def test_without_intents_turns_are_spooled_too(tmp_path):
    plain = copy.copy(tiny_world.player())
    plain.config = dataclasses.replace(plain.config, reconstruct=False)
    whole = tiny_world.play(by=plain)
    with pytest.raises(Killed):
        tiny_world.play(by=plain, spool=spooled(tmp_path), on_turn=kill_after(0))
    player, counts = counted(plain)
    assert_same_rollout(tiny_world.play(by=player, spool=spooled(tmp_path)), whole)
    assert counts == {"draw": 1, "think": 0}
    assert collect.shape_of(whole.samples[0], 2).turns == 2
