import copy
import dataclasses

import jax
import numpy as np
import pytest
import tiny_world

from editr2_jax.flow import kernels
from editr2_jax.flow.sde_window import WindowConfig
from editr2_jax.models import attention
from editr2_jax.rollouts import collect, in_context_cot
from editr2_jax.rollouts.player import NOISES

TURNS, SLOTS = tiny_world.TURNS, tiny_world.SLOTS


SUBSETS = [(0, 1), (2, 3), (1, 2)]  # each session alone; and one member of either, so that its picture is encoded for itself alone


@pytest.mark.slow
@pytest.mark.parametrize("rows", SUBSETS)
def test_what_a_dialogue_puts_before_the_model_does_not_depend_on_who_else_is_in_the_batch(rows):
    for ours, all_ in zip(tiny_world.stages(rows), tiny_world.stages(), strict=True):
        for name in ("full", "text"):
            some, whole = getattr(ours, name), getattr(all_, name)
            for part in ("k", "v"):
                np.testing.assert_allclose(getattr(some, part), np.asarray(getattr(whole, part))[:, list(rows)], atol=1e-5)
            np.testing.assert_array_equal(some.valid, np.asarray(whole.valid)[list(rows)])
            np.testing.assert_array_equal(some.rope, np.asarray(whole.rope)[list(rows)])


@pytest.mark.slow
@pytest.mark.parametrize("rows", SUBSETS)
def test_what_a_session_becomes_does_not_depend_on_who_else_is_in_the_batch(rows):
    some, whole, rows = tiny_world.play([tiny_world.samples()[i] for i in rows]), tiny_world.rollout(), list(rows)
    for name in ("intents", "answers"):
        assert getattr(some, name) == tuple(getattr(whole, name)[i] for i in rows)
    for name in ("step", "intent", "intent_count"):
        np.testing.assert_array_equal(getattr(some.played, name), np.asarray(getattr(whole.played, name))[rows])
    after = np.asarray(whole.played.x_next)[rows]
    np.testing.assert_allclose(some.played.x_next[:, 0], after[:, 0], atol=1e-4)  # guidance multiplies rounding by 4 and by 2, per step
    # Rounding moves a few pixels by one level, because levels are truncated; the next turn looks at them.
    gap = np.abs(some.pictures.astype(int) - whole.pictures[rows])
    assert gap.max() <= 1 and gap.mean() < 0.01
    np.testing.assert_allclose(some.played.x_next[:, 1], after[:, 1], atol=1e-2)


def test_the_same_key_plays_the_same_and_another_key_another():
    again, rollout = tiny_world.play(), tiny_world.rollout()
    tiny_world.assert_close(again.played, rollout.played, atol=0, rtol=0)
    assert (again.intents, again.answers) == (rollout.intents, rollout.answers)
    assert not np.array_equal(tiny_world.play(seed=4).pictures, tiny_world.rollout().pictures)


def test_members_of_a_group_share_their_start_and_window_and_nothing_else():
    played = tiny_world.rollout().played
    step, before, after = (np.asarray(part) for part in (played.step, played.x, played.x_next))
    for first, second in ((0, 1), (2, 3)):
        np.testing.assert_array_equal(step[first], step[second])
        np.testing.assert_allclose(before[first, 0, 0], before[second, 0, 0], atol=1e-6)
        assert not np.allclose(after[first, 0, 0], after[second, 0, 0], atol=1e-2)
    assert not np.allclose(before[0, 0, 0], before[2, 0, 0], atol=1e-2)


def test_windows_lie_in_their_range_and_move_from_turn_to_turn_and_session_to_session():
    played = [tiny_world.rollout().played, tiny_world.play(seed=4).played]
    first = np.concatenate([np.asarray(p.step)[::2, :, 0] for p in played])
    np.testing.assert_array_equal(np.concatenate([np.diff(p.step, axis=2) for p in played]), 1)
    assert set(first.reshape(-1)) == {0, 1}  # 3 steps hold a window of 2 in two ways
    assert len({tuple(row) for row in first}) > 1


def test_what_a_rollout_holds():
    rollout, played = tiny_world.rollout(), tiny_world.rollout().played
    assert rollout.pictures.dtype == np.uint8 and rollout.pictures.shape == (4, TURNS, tiny_world.HEIGHT, tiny_world.WIDTH, 3)
    np.testing.assert_array_equal(played.script.pictures, rollout.pictures)  # what is scored is what the next turn sees
    np.testing.assert_array_equal(played.script.source, np.stack([s.picture for s in tiny_world.samples()[::2]]))
    assert not np.asarray(played.intent_count)[:, 0].any() and np.all(np.asarray(played.intent_count)[:, 1] > 0)
    words = tiny_world.Words()
    for row in range(4):
        assert rollout.answers[row][0] is rollout.intents[row][0] is None and not rollout.fallback[row, 0]
        ids = np.asarray(played.intent)[row, 1, : int(played.intent_count[row, 1])].tolist()
        assert rollout.answers[row][1] == words.decode([i for i in ids if i != words.eos])
        said = rollout.samples[row].session.turns[1].instruction
        assert (rollout.intents[row][1], rollout.fallback[row, 1]) == in_context_cot.parse(rollout.answers[row][1], said)


def test_the_rollout_has_intents_and_fallbacks():
    """What the tests of this file are worth."""
    assert set(tiny_world.rollout().fallback[:, 1]) == {True, False}


def test_pictures_are_conditioned_on_the_intent_where_there_is_one():
    rollout, words = tiny_world.rollout(), tiny_world.Words()
    script = rollout.played.script
    for row in range(4):
        texts = [rollout.samples[row].session.turns[0].instruction, rollout.intents[row][1]]
        for t, text in enumerate(texts):
            expected = [words.bos, *words.encode(text), words.eos]
            assert np.asarray(script.instruction)[row, t, : int(script.instruction_count[row, t])].tolist() == expected


def test_the_question_is_asked_before_later_turns_only():
    script, words = tiny_world.rollout().played.script, tiny_world.Words()
    (_, system_count), (ids, count) = script.question
    assert not np.asarray(system_count)[:, 0].any() and not np.asarray(count)[:, 0].any()
    texts = [turn.instruction for turn in tiny_world.samples()[2].session.turns]
    expected = words.encode(in_context_cot.question(tiny_world.PROMPT, texts, 1))
    assert np.asarray(ids)[2, 1, : int(count[2, 1])].tolist() == [words.bos, *expected, words.eos]


def test_turns_are_told_as_they_happen_with_the_pictures_so_far():
    told = []
    rollout = tiny_world.play(on_turn=lambda t, episodes: told.append((t, episodes)))
    assert [t for t, _ in told] == list(range(TURNS))
    for t, episodes in told:
        for row, episode in enumerate(episodes):
            assert episode.turn == t and episode.session is rollout.samples[row].session
            seen = (rollout.samples[row].picture, *rollout.pictures[row, : t + 1])
            assert len(episode.pictures) == t + 2 and all(np.array_equal(a, b) for a, b in zip(episode.pictures, seen, strict=True))


class Says(tiny_world.Words):
    """Reads whatever the model wrote as one sentence."""

    def __init__(self, sentence: str):
        self.sentence = sentence

    def decode(self, ids) -> str:
        return self.sentence


@pytest.mark.parametrize(
    ("written", "intent"),
    [
        ("hm</think>paint the box", "paint the box"),
        ("paint the box", None),  # no tag
        ("</think>" + "paint " * (SLOTS.later - 1), None),  # with begin and end token one too long to condition a picture
        ("</think>" + "paint " * (SLOTS.later - 2), " ".join(["paint"] * (SLOTS.later - 2))),
    ],
)
def test_an_answer_conditions_the_picture_or_falls_back_to_the_instruction(written, intent):
    rollout = tiny_world.play(tokenizer=Says(written))
    said = [sample.session.turns[1].instruction for sample in rollout.samples]
    assert [row[1] for row in rollout.intents] == ([intent] * 4 if intent else said)
    assert rollout.fallback[:, 1].all() == (intent is None) and not rollout.fallback[:, 0].any()
    assert {row[1] for row in rollout.answers} == {written}


def test_without_reconstruction_every_turn_is_drawn_from_its_own_instruction():
    literal = copy.copy(tiny_world.player())
    literal.config = dataclasses.replace(literal.config, reconstruct=False)
    rollout = tiny_world.play(by=literal)
    assert set(rollout.intents) == set(rollout.answers) == {(None,) * TURNS}
    assert not rollout.fallback.any() and not np.asarray(rollout.played.intent_count).any()
    fallen = np.flatnonzero(tiny_world.rollout().fallback[:, 1])  # these were drawn from their instructions too
    np.testing.assert_array_equal(rollout.pictures[fallen], tiny_world.rollout().pictures[fallen])


def test_without_noise_the_members_of_a_group_play_alike():
    rollout = tiny_world.play(by=tiny_world.still_player())
    played = rollout.played
    assert played.image_log_prob.shape == played.step.shape == (4, TURNS, 0)
    assert played.x.shape == played.x_next.shape == (4, TURNS, 0, *played.clean.shape[2:])
    for first, second in ((0, 1), (2, 3)):
        np.testing.assert_array_equal(rollout.pictures[first], rollout.pictures[second])
        assert rollout.intents[first] == rollout.intents[second]
    assert not np.array_equal(rollout.pictures[0], rollout.pictures[2])


def test_an_instruction_without_room_is_refused_naming_its_turn():
    sample = tiny_world.samples()[0]
    long = dataclasses.replace(sample.session, turns=(tiny_world.turn("paint " * SLOTS.instruction), sample.session.turns[1]))
    some = [dataclasses.replace(sample, session=long), *tiny_world.samples()[1:]]
    with pytest.raises(ValueError, match=f"instruction of turn 0 takes {SLOTS.instruction + 2} tokens but has {SLOTS.instruction} slots"):
        tiny_world.play(some)


def test_the_shape_of_a_session_is_its_picture_and_the_turns_played():
    sample = tiny_world.samples()[0]
    assert collect.shape_of(sample, 5) == collect.Shape(tiny_world.HEIGHT, tiny_world.WIDTH, TURNS)
    assert collect.shape_of(sample, 1).turns == 1


def test_sessions_whose_words_have_no_room_are_refused_before_a_run():
    sessions = [sample.session for sample in tiny_world.samples()]
    collect.refuse_long(sessions, tiny_world.ROLLOUT, tiny_world.Words())
    wordy = lambda *texts: [dataclasses.replace(sessions[0], id="wordy", turns=tuple(map(tiny_world.turn, texts)))]  # noqa: E731
    for some, config, message in (
        (wordy("x " * 9, "y"), {}, "session wordy: the instruction of turn 0 takes 11 tokens but has 8 slots"),
        (wordy("x", "y " * 5), {}, "session wordy: the instruction of turn 1 takes 7 tokens but has 6 slots"),
        (wordy("x x x x x x", "y y y y"), {"policy": _with_slots(question=13)}, "wordy: the question before turn 1 takes 15 tokens"),
        (sessions, {"policy": _with_slots(system=2)}, "the system prompt of intent reconstruction takes 3 tokens but has 2 slots"),
    ):
        with pytest.raises(ValueError, match=message):
            collect.refuse_long(some, dataclasses.replace(tiny_world.ROLLOUT, **config), tiny_world.Words())
    literal = dataclasses.replace(tiny_world.ROLLOUT, policy=_with_slots(question=1, system=1), reconstruct=False)
    collect.refuse_long(sessions, literal, tiny_world.Words())  # nobody is asked anything


def _with_slots(**slots):
    return dataclasses.replace(tiny_world.POLICY, slots=dataclasses.replace(SLOTS, **slots))


def _with_kernel(**kernel):
    flow = dataclasses.replace(tiny_world.POLICY.flow, kernel=kernels.Kernel(**kernel))
    return dataclasses.replace(tiny_world.POLICY, flow=flow)


def test_a_rollout_that_cannot_teach_is_refused():
    for wrong, message in (
        ({"window": WindowConfig(last=4)}, "a window in steps 0 to 3 does not fit into the 3 steps of 4 grid points"),
        ({"policy": _with_kernel(kind="ode")}, "2 stochastic steps, but kernel 'ode' .* draws nothing, .*set window.size=0, or choose"),
        ({"policy": _with_kernel(noise_level=0.0)}, "kernel 'sde' at noise_level 0.0 draws nothing"),
        ({"policy": _with_kernel(kind="cps", noise_level=0.8)}, "reaches the last step, 2, which 'cps' takes without noise"),
        ({"policy": _with_kernel(kind="ddim", noise_level=0.8)}, "set window.last to at most 2"),
        ({"noise": "session"}, "noise is 'session'; choose one of iteration, dialogue, member"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(tiny_world.ROLLOUT, **wrong)
    still = {"policy": _with_kernel(kind="ode"), "window": WindowConfig(size=0, last=9)}
    assert dataclasses.replace(tiny_world.ROLLOUT, **still).window.count == 0  # what needs no density learns from pictures drawn so


# Which steps are stochastic, and who shares the initial noise: functions of the streams alone, so nothing is drawn here. ------------------


def _streams(seed: int = 0, groups=(5, 5, 9, 9), members=(0, 1, 0, 1)) -> collect._Streams:
    return collect._Streams(jax.random.key(seed), np.array(groups, np.uint32), np.array(members, np.uint32))


def _player(draws: bool = True, **config):
    """A player as far as streams look at it."""
    player = copy.copy(tiny_world.player())
    player.config, player.draws = dataclasses.replace(tiny_world.ROLLOUT, **config), draws
    return player


def _steps(window: WindowConfig, turn: int = 0, seed: int = 0, iteration: int | None = 0, **rows) -> list:
    return np.asarray(collect._stochastic_steps(_player(window=window), _streams(seed, **rows), turn, iteration)).tolist()


WIDE = WindowConfig(kind="subset", size=1, last=3)


@pytest.mark.parametrize("kind", ["random", "subset"])
def test_a_window_belongs_to_a_turn_of_a_session_or_to_the_whole_iteration(kind):
    own = dataclasses.replace(WIDE, kind=kind)
    first, second, third, fourth = zip(*(_steps(own, turn) for turn in range(12)), strict=True)
    assert first == second and third == fourth and first != third
    assert {step for (step,) in first} == {0, 1, 2}
    shared = dataclasses.replace(own, share="batch")
    everything = [row for turn in range(12) for row in _steps(shared, turn)]
    assert len({step for (step,) in everything}) == 1
    assert _steps(shared, groups=(7, 8, 9, 9)) == _steps(shared)  # whoever is in the batch
    assert {_steps(shared, seed=seed)[0][0] for seed in range(20)} == {0, 1, 2}


def test_a_sliding_window_follows_the_iteration_and_no_key():
    window = WindowConfig(kind="sliding", size=1, last=3, period=2)
    assert [_steps(window, seed=i, iteration=i)[2][0] for i in range(7)] == [0, 0, 1, 1, 2, 2, 0]
    with pytest.raises(ValueError, match="say which one this is"):
        _steps(window, iteration=None)


def test_without_noise_no_step_is_stochastic():
    assert collect._stochastic_steps(_player(draws=False), _streams(), 0, None).shape == (4, 0)


@pytest.mark.slow
def test_a_window_in_pieces_and_noise_of_one_s_own_are_played_and_asked_again():
    """Seed 1 leaves a step out between two stochastic ones."""
    player = _player(window=WindowConfig(kind="subset", size=2, last=3), noise="member")
    played = tiny_world.play(by=player, seed=1).played
    assert {tuple(row) for turn in np.asarray(played.step) for row in turn} >= {(0, 2)}
    assert not np.allclose(played.x[0, 0, 0], played.x[1, 0, 0], atol=1e-2)
    again, _ = tiny_world.updater().ask_again(tiny_world.moved(), played)
    np.testing.assert_allclose(np.exp(again - played.image_log_prob), 1.0, atol=2e-6)


def _noise(noise: str, turn: int = 0, seed: int = 0, run: int | None = 0, samples=None, draws: bool = True) -> np.ndarray:
    """The rows' keys as numbers [B, 2]."""
    made = collect.noise_keys(_player(draws, noise=noise), samples or tiny_world.samples(), key=jax.random.key(seed), seed=run)
    return np.asarray(jax.random.key_data(made(turn)))


def test_who_shares_the_initial_noise():
    """By name: the group in its iteration, the group in the whole run (defect 4 of the references, to compare with), nobody.

    Turns never share.
    """
    rows = {name: _noise(name) for name in NOISES}
    for name, alike in (("iteration", True), ("dialogue", True), ("member", False)):
        assert np.array_equal(rows[name][0], rows[name][1]) == alike == np.array_equal(rows[name][2], rows[name][3])
        assert not np.array_equal(rows[name][0], rows[name][2])
        assert not np.any(np.all(_noise(name, turn=1) == rows[name], axis=1))
        of_another_iteration = _noise(name, seed=1)
        assert np.array_equal(of_another_iteration, rows[name]) == (name == "dialogue")
    assert not np.array_equal(_noise("dialogue", run=1), rows["dialogue"])  # another run
    for name in NOISES:
        np.testing.assert_array_equal(_noise(name, draws=False, run=None), rows["iteration"])  # evaluation
    with pytest.raises(ValueError, match="noise='dialogue': .* give play the seed"):
        _noise("dialogue", run=None)


def test_a_dialogue_is_told_by_all_that_is_said_and_by_its_picture():
    """A folder that has moved, or turns that are not played, change nothing; other words or another picture do."""
    sample, base = tiny_world.samples()[0], _noise("dialogue")[0]
    change = lambda **fields: [dataclasses.replace(sample, session=dataclasses.replace(sample.session, **fields))] * 4  # noqa: E731
    np.testing.assert_array_equal(_noise("dialogue", samples=change(image="/elsewhere/none.png"))[0], base)
    assert not np.array_equal(_noise("dialogue", samples=change(id="another"))[0], base)
    assert not np.array_equal(_noise("dialogue", samples=change(turns=sample.session.turns[:1]))[0], base)
    assert collect._said(sample.session) == "paint it | make it red_s5"


@pytest.mark.slow
def test_a_longer_dialogue_starts_as_the_shorter_one_and_has_ratio_one_to_its_end(monkeypatch):
    """Three turns, with attention in pieces of one row: neither the room that is kept nor the pieces change what is played."""
    monkeypatch.setattr(attention, "_CACHE_BYTES", 0)
    longer = copy.copy(tiny_world.player())
    longer.config = dataclasses.replace(longer.config, turns=3)
    rollout, short = tiny_world.play(tiny_world.samples(3), by=longer), tiny_world.rollout()
    assert rollout.pictures.shape[1] == 3
    assert [answers[:2] for answers in rollout.answers] == list(short.answers)
    np.testing.assert_array_equal(np.asarray(rollout.played.step)[:, :2], short.played.step)
    np.testing.assert_allclose(np.asarray(rollout.played.x_next)[:, 0], np.asarray(short.played.x_next)[:, 0], atol=1e-4)
    assert np.all(np.asarray(rollout.played.intent_count)[:, 1:] > 0)
    image, text = tiny_world.updater().ask_again(tiny_world.moved(), rollout.played)
    np.testing.assert_allclose(np.exp(image - rollout.played.image_log_prob), 1.0, atol=2e-6)
    np.testing.assert_allclose(np.exp(text - rollout.played.intent_log_prob), 1.0, atol=1e-4)
