import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from flax import nnx

from editr2_jax import experiment, presets
from editr2_jax.models import network
from editr2_jax.objectives.autoencoder_objective import AutoencoderConfig
from editr2_jax.objectives.supervised_objective import SupervisedConfig
from editr2_jax.records import Sample
from editr2_jax.rollouts import in_context_cot
from editr2_jax.training import state as states
from editr2_jax.training import supervised
from editr2_jax.training.state import OptimizerConfig

WORDS, SLOTS, PROMPT, TURNS = tiny_world.Words(), tiny_world.SLOTS, tiny_world.PROMPT, tiny_world.TURNS
INTENTS = (("", "make it red"), ("", "move up"))


def taught_samples() -> list[Sample]:
    """The two sessions, once each, with ground truth: a target after every turn, and an intent before every later one."""
    made = []
    for sample, intents in zip(tiny_world.samples()[::2], INTENTS, strict=True):
        turns = tuple(dataclasses.replace(turn, intent=intent) for turn, intent in zip(sample.session.turns, intents, strict=True))
        targets = tuple(np.roll(sample.picture, 8 * (t + 1), axis=1) for t in range(TURNS))
        made.append(dataclasses.replace(sample, session=dataclasses.replace(sample.session, turns=turns), targets=targets))
    return made


def _teach(samples, **more):
    latents = np.zeros((len(samples), TURNS + 1, 6, 64), np.float32)
    return supervised.teach(samples, latents, tokenizer=WORDS, slots=SLOTS, prompt=PROMPT, **more)


def test_pictures_are_conditioned_on_the_first_instruction_and_then_on_the_intents():
    samples, lecture = taught_samples(), _teach(taught_samples())
    for row, intents in enumerate(INTENTS):
        for t, text in enumerate((samples[row].session.turns[0].instruction, *intents[1:])):
            expected = [WORDS.bos, *WORDS.encode(text), WORDS.eos]
            assert np.asarray(lecture.instruction)[row, t, : int(lecture.instruction_count[row, t])].tolist() == expected
    np.testing.assert_array_equal(lecture.pictures, [np.stack([sample.picture, *sample.targets[:-1]]) for sample in samples])


def test_what_is_to_be_predicted_is_the_answer_and_its_end_and_nothing_else():
    lecture = _teach(taught_samples())
    thought, count, answer = (np.asarray(x) for x in (lecture.thought, lecture.thought_count, lecture.answer))
    assert not count[:, 0].any() and not answer[:, 0].any()
    for row, intents in enumerate(INTENTS):
        expected = [*WORDS.encode(in_context_cot.answer(intents[1])), WORDS.eos]
        assert thought[row, 1][answer[row, 1]].tolist() == expected
        first = int(np.flatnonzero(answer[row, 1])[0])
        assert thought[row, 1, first - 1] == WORDS.bos  # as in sampling
        assert answer[row, 1].sum() == len(expected) and first + len(expected) == count[row, 1]


def test_turn_0_learns_to_describe_the_source_where_a_caption_says_how():
    samples = taught_samples()
    samples[1] = dataclasses.replace(samples[1], session=dataclasses.replace(samples[1].session, caption="red box"))
    lecture = _teach(samples)
    first = np.asarray(lecture.thought)[1, 0]
    assert np.asarray(lecture.thought_count)[0, 0] == 0 and not np.asarray(lecture.answer)[0, 0].any()
    question = [WORDS.bos, *WORDS.encode(supervised.CAPTION_QUESTION), WORDS.eos, WORDS.bos]
    assert first[: len(question)].tolist() == question
    assert first[np.asarray(lecture.answer)[1, 0]].tolist() == [*WORDS.encode("red box"), WORDS.eos]


@pytest.mark.parametrize("share, taught", [(0.0, "intent"), (1.0, "instruction")])
def test_a_share_of_later_answers_repeats_the_instruction_and_no_picture_notices(share, taught):
    samples = taught_samples()
    lecture, plain = _teach(samples, repeat=share), _teach(samples)
    for row, sample in enumerate(samples):
        answer = np.asarray(lecture.thought)[row, 1][np.asarray(lecture.answer)[row, 1]].tolist()
        assert answer == [*WORDS.encode(in_context_cot.answer(getattr(sample.session.turns[1], taught))), WORDS.eos]
    np.testing.assert_array_equal(lecture.instruction, plain.instruction)
    with pytest.raises(ValueError, match="repeat is 1.5"):
        SupervisedConfig(repeat=1.5)


def test_the_answers_that_repeat_come_in_that_share_and_only_where_they_have_room():
    session = taught_samples()[1].session
    answer = lambda session: supervised._answer(session, 1, WORDS, SLOTS, 0.6)  # noqa: E731
    resolved = supervised._answer(session, 1, WORDS, SLOTS, 0.0)
    repeated = [answer(dataclasses.replace(session, id=f"s{i}")) != resolved for i in range(2000)]
    assert 0.57 < np.mean(repeated) < 0.63
    crowded = dataclasses.replace(session.turns[1], instruction="up " * SLOTS.intent)
    assert supervised._answer(dataclasses.replace(session, turns=(session.turns[0], crowded)), 1, WORDS, SLOTS, 1.0) == resolved


def test_the_question_before_the_answer_is_the_one_that_play_asks():
    lecture, played = _teach(taught_samples()), tiny_world.rollout().played.script
    for row in range(2):
        asked = [ids for segment, count in played.question for ids in np.asarray(segment)[2 * row, 1, : int(count[2 * row, 1])]]
        assert np.asarray(lecture.thought)[row, 1, : len(asked)].tolist() == asked


def _without(session) -> list[Sample]:
    samples = taught_samples()
    return [samples[0], dataclasses.replace(samples[1], session=session)]


@pytest.mark.parametrize("part", ["target", "intent"])
def test_a_session_without_ground_truth_is_refused_by_name(part):
    taught = [
        dataclasses.replace(sample.session, turns=tuple(dataclasses.replace(turn, target="t.png") for turn in sample.session.turns))
        for sample in taught_samples()
    ]
    supervised.refuse_untaught(taught)
    first, last = taught[1].turns
    taught[1] = dataclasses.replace(taught[1], turns=(first, dataclasses.replace(last, **{part: None})))
    with pytest.raises(ValueError, match="session s9 has no ground truth; the supervised recipe needs `target` and `intent`"):
        supervised.refuse_untaught(taught)


def test_words_without_room_are_refused_by_name():
    session = taught_samples()[1].session
    long = dataclasses.replace(session, turns=(session.turns[0], dataclasses.replace(session.turns[1], intent="up " * SLOTS.later)))
    message = f"session s9: the instruction of turn 1 takes {SLOTS.later + 2} tokens but has {SLOTS.later} slots"
    with pytest.raises(ValueError, match=message):
        _teach(_without(long))


def _run(parts, make, steps: int, rate: float) -> list[dict[str, float]]:
    """Metrics of some steps on one batch."""
    net, trainable, frozen = network.whole(nnx.clone(tiny_world.world_model()), parts)
    optimizer = OptimizerConfig(learning_rate=rate, weight_decay=0.0).build()
    recipe = tiny_world.quickly(make, net, frozen, optimizer=optimizer, seed=0)
    state, told = states.create(jax.tree.map(jnp.copy, trainable), optimizer), []  # a step gives its state's memory away
    for step in range(steps):
        state, metrics = recipe.step(state, taught_samples(), step)
        told.append(jax.device_get(metrics))
    return told


@pytest.mark.slow
def test_the_supervised_losses_fall_on_one_batch():
    make = lambda *parts, **more: supervised.Supervised(  # noqa: E731
        *parts, config=SupervisedConfig(text_share=1.0), slots=SLOTS, prompt=PROMPT, tokenizer=WORDS, **more
    )
    told = _run(("decoder", "latent"), make, 10, 3e-3)
    assert set(told[0]) >= {"supervised/flow", "supervised/text", "supervised/intent_accuracy", "loss/total", "optimizer/gradient_norm"}
    mean = lambda name, part: float(np.mean([metrics[name] for metrics in told[part]]))  # noqa: E731
    assert mean("supervised/flow", slice(-3, None)) < 0.8 * mean("supervised/flow", slice(0, 3))
    assert told[-1]["supervised/text"] < 0.5 * told[0]["supervised/text"]
    assert told[-1]["supervised/intent_accuracy"] > told[0]["supervised/intent_accuracy"]


def test_an_autoencoder_that_would_change_under_its_latents_is_refused(tmp_path):
    config = presets.supervised()
    config.parts = ("decoder", "vae")
    with pytest.raises(ValueError, match="parts names vae, but the supervised recipe does not train it"):
        experiment.make_recipe(config, None, None, None, tmp_path, first_step=0)


def test_latents_are_remembered_by_session():
    net, trainable, frozen = network.whole(tiny_world.world_model(), ("decoder",))
    recipe = tiny_world.quickly(
        supervised.Supervised, net, frozen, optimizer=OptimizerConfig().build(), config=SupervisedConfig(), slots=SLOTS, prompt=PROMPT,
        tokenizer=WORDS, seed=0, remember=True,
    )  # fmt: skip
    state, samples = states.create(trainable, recipe.optimizer), taught_samples()
    alone, asked = recipe.latents(state, samples[1:] * 2), []
    encode, recipe._encode = recipe._encode, lambda *args: asked.append(args[-1]) or encode(*args)
    both = recipe.latents(state, samples)
    np.testing.assert_array_equal(both[1], alone[0])
    np.testing.assert_array_equal(asked[0][0], [samples[0].picture, *samples[0].targets])  # only the new one, repeated to one shape
    np.testing.assert_array_equal(asked[0][0], asked[0][1])
    np.testing.assert_array_equal(recipe.latents(state, samples[::-1]), both[::-1])
    assert len(asked) == 1


@pytest.mark.slow
def test_the_autoencoder_s_losses_fall_on_one_batch():
    make = lambda *parts, **more: supervised.AutoencoderRecipe(*parts, config=AutoencoderConfig(), **more)  # noqa: E731
    told = _run(("vae",), make, 8, 1e-3)
    assert told[-1]["loss/total"] < 0.9 * told[0]["loss/total"]
    assert told[-1]["autoencoder/l1"] < told[0]["autoencoder/l1"]
