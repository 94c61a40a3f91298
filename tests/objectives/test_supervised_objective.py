import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.objectives import joint_objective, supervised_objective
from editr2_jax.objectives.supervised_objective import SupervisedConfig
from editr2_jax.policies import dialogue, one_pass
from editr2_jax.policies.context import pad_tokens
from editr2_jax.policies.dialogue import Script
from editr2_jax.training import supervised

WORDS, SLOTS, TURNS = tiny_world.Words(), tiny_world.SLOTS, tiny_world.TURNS


def _taught():
    """A lecture of the rollout's sessions: what play drew as ground truth, and a sentence as every later intent."""
    samples = []
    for sample, pictures in zip(tiny_world.samples()[::2], tiny_world.rollout().pictures[::2], strict=True):
        turns = tuple(dataclasses.replace(turn, intent="make it red" if t else "") for t, turn in enumerate(sample.session.turns))
        samples.append(dataclasses.replace(sample, session=dataclasses.replace(sample.session, turns=turns), targets=tuple(pictures)))
    pictures = np.stack([np.stack((sample.picture, *sample.targets)) for sample in samples])
    encode = tiny_world.compiled(lambda model, flat: model.encode(flat), tiny_world.world_model())
    latents = encode(pictures.reshape(-1, *pictures.shape[2:]))
    latents = latents.reshape(*pictures.shape[:2], *latents.shape[1:])
    return samples, supervised.teach(samples, latents, tokenizer=WORDS, slots=SLOTS, prompt=tiny_world.PROMPT)


def _script(samples, lecture) -> Script:
    """The same sessions as play would have left them behind."""
    return Script(
        source=lecture.pictures[:, 0],
        pictures=jnp.stack([jnp.stack(sample.targets) for sample in samples]),
        instruction=lecture.instruction,
        instruction_count=lecture.instruction_count,
        question=(),
    )


@pytest.mark.slow
def test_one_pass_sees_what_a_growing_cache_holds():
    """At every turn, before and after its instruction: rotary positions, and what attention reads, whatever the slots' order."""
    samples, lecture = _taught()
    model = tiny_world.policy_model()
    grid = model.latent_grid(tiny_world.HEIGHT, tiny_world.WIDTH)

    def both(model, lecture, script):
        pictures = lecture.pictures
        seen = jnp.stack([model.see(pictures[:, t]) for t in range(TURNS)], axis=1)
        words = tuple(lecture.instruction[:, t, : SLOTS.of_turn(t)] for t in range(TURNS))
        sighted = jnp.ones((len(pictures),), bool)
        reading = one_pass.read(model, lecture.latents[:, :-1], seen, words, lecture.instruction_count, grid=grid, sighted=sighted)
        return reading, dialogue.replay(model, script, SLOTS)

    reading, replay = tiny_world.compiled(both, model)(lecture, _script(samples, lecture))
    np.testing.assert_array_equal(reading.before_rope, replay.thinking_rope.T)
    np.testing.assert_array_equal(reading.after_rope, replay.drawing.start[:, :, 0].T)
    for ours, theirs in ((reading.before, replay.thinking_visible), (reading.after, replay.drawing.full)):
        for row in range(2):
            for t in range(TURNS):
                for a, b in ((reading.k, replay.context.full.k), (reading.v, replay.context.full.v)):
                    a, b = (np.asarray(x)[:, row][:, :, np.asarray(m)] for x, m in ((a, ours[row, t]), (b, theirs[t, row])))
                    np.testing.assert_allclose(np.sort(a, axis=2), np.sort(b, axis=2), atol=2e-5)


@pytest.mark.slow
def test_a_row_without_pictures_reads_its_words_alone():
    """As the branch without pictures does: positions count words, and no picture, however it looks, changes what is read."""
    samples, lecture = _taught()
    model = tiny_world.policy_model()

    def read(model, lecture, latents, seen):
        words = tuple(lecture.instruction[:, t, : SLOTS.of_turn(t)] for t in range(TURNS))
        count, sighted = lecture.instruction_count, jnp.asarray([False, True])
        return one_pass.read(model, latents, seen, words, count, grid=grid, sighted=sighted)

    grid = model.latent_grid(tiny_world.HEIGHT, tiny_world.WIDTH)
    seen = np.ones((2, TURNS, 4, model.config.decoder.width), np.float32)
    run = tiny_world.compiled(read, model)
    one, other = (run(lecture, factor * lecture.latents[:, :-1], factor * seen) for factor in (1.0, 2.0))
    theirs = tiny_world.compiled(lambda model, script: dialogue.replay(model, script, SLOTS), model)(_script(samples, lecture))
    np.testing.assert_array_equal(one.after_rope[0], theirs.drawing.start[:, 0, 2])
    visible = np.asarray(one.after[0, -1])
    assert visible.sum() == int(lecture.instruction_count[0].sum())
    words = np.asarray(theirs.drawing.without_pictures[-1, 0])
    for a, b, text in ((one.k, other.k, theirs.context.text.k), (one.v, other.v, theirs.context.text.v)):
        a, b = (np.asarray(x)[:, 0][:, :, visible] for x in (a, b))
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, np.asarray(text)[:, 0][:, :, words], atol=2e-5)


@pytest.mark.slow
def test_words_are_taught_through_the_same_tokens_and_positions_as_they_are_written():
    """The supervised text loss is minus the policy's own log_prob of the answer, at temperature 1."""
    samples, lecture = _taught()
    answers = [row[mask].tolist() for row, mask in zip(np.asarray(lecture.thought)[:, 1], np.asarray(lecture.answer)[:, 1], strict=True)]
    intent, count = pad_tokens(answers, SLOTS.intent, what="an answer")
    later = lambda x: jnp.stack([jnp.zeros_like(x), jnp.asarray(x)], axis=1)  # noqa: E731
    question = tuple((ids[::2], counts[::2]) for ids, counts in tiny_world.rollout().played.script.question)  # of one member of each group
    played = jax.tree.map(lambda x: x[::2], dataclasses.replace(tiny_world.rollout().played, script=None))
    script = dataclasses.replace(_script(samples, lecture), question=question)
    played = dataclasses.replace(played, script=script, intent=later(intent), intent_count=later(count))
    policy = dataclasses.replace(tiny_world.POLICY, temperature=1.0)
    config = SupervisedConfig(draws=1, drop_pictures=0.0, text_share=1.0)

    def both(model, lecture, played):
        metrics = supervised_objective.loss(model, lecture, key=jax.random.key(0), config=config, slots=SLOTS)[1]
        return metrics, joint_objective.log_probs(model, played, policy=policy)[1]

    metrics, words = tiny_world.compiled(both, tiny_world.policy_model())(lecture, played)
    assert len(samples) == 2 and int(count.sum()) == sum(map(len, answers))
    np.testing.assert_allclose(metrics["supervised/text"], -words.sum() / count.sum(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2])
def test_words_without_weight_are_not_computed(turns):
    _, lecture = _taught()
    cut = lambda x: x[:, :turns]  # noqa: E731
    lecture = dataclasses.replace(jax.tree.map(cut, lecture), latents=lecture.latents[:, : turns + 1])
    for weight in (0.0, 0.2):
        run = lambda weight=weight: supervised_objective.loss(  # noqa: E731
            tiny_world.world_model(), lecture, key=jax.random.key(0), config=SupervisedConfig(text_weight=weight), slots=SLOTS
        )
        _, metrics = jax.eval_shape(run)  # traced, not computed
        assert ("supervised/text" in metrics) == (weight > 0)


@pytest.mark.slow
def test_rows_without_pictures_are_not_asked_about_them():
    _, lecture = _taught()
    config = SupervisedConfig(draws=1, drop_pictures=0.5, text_share=1.0)
    run = lambda model, lecture: supervised_objective.loss(model, lecture, key=jax.random.key(0), config=config, slots=SLOTS)[1]  # noqa: E731
    metrics = tiny_world.compiled(run, tiny_world.policy_model())(lecture)
    assert int(metrics["supervised/intent_tokens"]) == int(lecture.answer[1].sum()) < int(lecture.answer.sum())
    assert int(metrics["supervised/caption_tokens"]) == 0 and np.isfinite(metrics["supervised/text"])


def test_no_draw_at_all_is_refused():
    with pytest.raises(ValueError, match="draws is 0; draw at least one noise per turn"):
        SupervisedConfig(draws=0)
