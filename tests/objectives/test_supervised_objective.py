import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from editr2_jax.objectives import joint_objective, supervised_objective
from editr2_jax.objectives.supervised_objective import SupervisedConfig
from editr2_jax.policies.context import pad_tokens
from editr2_jax.training import supervised

WORDS, SLOTS, TURNS = tiny_world.Words(), tiny_world.SLOTS, tiny_world.TURNS


def _taught():
    """A lecture of the rollout's sessions: what play drew as ground truth, and a sentence as every later intent."""
    samples = []
    for sample, pictures in zip(tiny_world.samples()[::2], tiny_world.rollout().pictures[::2], strict=True):
        turns = tuple(dataclasses.replace(turn, intent="make it red" if t else "") for t, turn in enumerate(sample.session.turns))
        samples.append(dataclasses.replace(sample, session=dataclasses.replace(sample.session, turns=turns), targets=tuple(pictures)))
    return samples, supervised.teach(samples, tokenizer=WORDS, slots=SLOTS, prompt=tiny_world.PROMPT)


@pytest.mark.slow
def test_words_are_taught_through_the_same_tokens_and_positions_as_they_are_written():
    """The supervised text loss is minus the policy's own log_prob of the answer, at temperature 1."""
    samples, lecture = _taught()
    answers = [row[mask].tolist() for row, mask in zip(np.asarray(lecture.thought)[:, 1], np.asarray(lecture.answer)[:, 1], strict=True)]
    intent, count = pad_tokens(answers, SLOTS.intent, what="an answer")
    later = lambda x: jnp.stack([jnp.zeros_like(x), jnp.asarray(x)], axis=1)  # noqa: E731
    question = tuple((ids[::2], counts[::2]) for ids, counts in tiny_world.rollout().played.script.question)  # of one member of each group
    played = jax.tree.map(lambda x: x[::2], dataclasses.replace(tiny_world.rollout().played, script=None))
    script = dataclasses.replace(lecture.script, question=question)
    played = dataclasses.replace(played, script=script, intent=later(intent), intent_count=later(count))
    policy = dataclasses.replace(tiny_world.POLICY, temperature=1.0)
    config = SupervisedConfig(draws=1, drop_pictures=0.0, text_share=1.0)

    def both(model, lecture, played):
        metrics = supervised_objective.loss(model, lecture, key=jax.random.key(0), config=config, slots=SLOTS)[1]
        return metrics, joint_objective.log_probs(model, played, policy=policy)[1]

    metrics, words = tiny_world.compiled(both, tiny_world.policy_model())(lecture, played)
    assert len(samples) == 2 and int(count.sum()) == sum(map(len, answers))
    np.testing.assert_allclose(metrics["supervised/text"], -words.sum() / count.sum(), rtol=1e-4)


@pytest.mark.parametrize("turns", [1, 2])
def test_words_are_left_out_where_there_are_none(turns):
    _, lecture = _taught()
    cut = lambda x: x[:, :turns]  # noqa: E731
    script = lecture.script
    script = dataclasses.replace(
        script, pictures=cut(script.pictures), instruction=cut(script.instruction), instruction_count=cut(script.instruction_count)
    )
    lecture = dataclasses.replace(
        lecture, script=script, thought=cut(lecture.thought), thought_count=cut(lecture.thought_count), answer=cut(lecture.answer)
    )
    for weight in (0.0, 0.2):
        run = lambda weight=weight: supervised_objective.loss(  # noqa: E731
            tiny_world.world_model(), lecture, key=jax.random.key(0), config=SupervisedConfig(text_weight=weight), slots=SLOTS
        )
        _, metrics = jax.eval_shape(run)  # traced, not computed
        assert ("supervised/text" in metrics) == (turns > 1 and weight > 0)


def test_no_draw_at_all_is_refused():
    with pytest.raises(ValueError, match="draws is 0; draw at least one noise per turn"):
        SupervisedConfig(draws=0)
