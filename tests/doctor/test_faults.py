"""The table of planted faults: what can be wrong with a run before its first step, and which checks say so.

A row plants one fault into a healthy run. The named checks must fail (or warn) with a number and an advice, and no other may say a word.
"""

import copy
import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import healthy_subject
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from healthy_subject import healthy, ill

from editr2_jax.doctor import checks
from editr2_jax.doctor.finding import Finding, Opinion
from editr2_jax.models.network import Network
from editr2_jax.records import Status, Verdict
from editr2_jax.rewards.suite import Suite
from editr2_jax.rollouts import collect
from editr2_jax.runtime import keys, workdir
from editr2_jax.training.edit_r2 import EditR2, StepConfig
from editr2_jax.training.update import Updater

pytestmark = pytest.mark.slow  # plays, and compiles the whole objective

LEARNING = ("masks", "reference", "adapters", "learning")  # compile the whole objective
SEEING = ("rewards", "samplers", "drift")  # take a while: asked of every fault once


class Fault(NamedTuple):
    plant: Callable[[], healthy_subject.Subject]
    says: dict[str, str]  # check -> regular expression of its evidence
    opinion: Opinion


FAULTS: dict[str, Fault] = {}


def fault(name: str, opinion: Opinion = Opinion.FAIL, **says: str):
    """Adds a row; the function below it plants the fault."""

    def add(plant):
        FAULTS[name] = Fault(plant, says, opinion)
        return plant

    return add


@pytest.mark.parametrize("names", [[name for name in checks.CHECKS if name not in LEARNING], LEARNING])
def test_a_healthy_run_is_met_with_silence(names):
    findings = list(checks.run(healthy(), names))
    assert [found.name for found in findings] == list(names)
    assert not [f"{found.name}: {found.evidence}" for found in findings if found.advice or found.opinion is not Opinion.OK]


# the rollout -----------------------------------------------------------------------------------------------------------------------

ASKED = ("asked", "asked_as_loss", "gradient_of_pictures", "gradient_of_words")
REPLAYED = (*ASKED, "replay", "walked", "walked_by_evaluation")


def played(*out_of_date: str, measured: dict | None = None, **changes):
    """A subject whose rollout has other arrays."""
    rollout = dataclasses.replace(healthy().rollout, played=dataclasses.replace(healthy().played, **changes))
    return ill(*out_of_date, measured={"rollout": rollout} | (measured or {}))


def script(*out_of_date: str, **changes):
    """A subject whose dialogue reads otherwise."""
    return played(*out_of_date, script=dataclasses.replace(healthy().played.script, **changes))


@fault("bf16 latents", precision="x holds float32 but was rounded to bfloat16 on its way; x_next holds", image_ratio="not one")
def _():
    through = lambda x: jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    return played(*REPLAYED, x=through(healthy().played.x), x_next=through(healthy().played.x_next))


@fault("half-precision advantages", credit="image_advantage is float16, not float32")
def _():
    credit, metrics = healthy().credit
    half = dataclasses.replace(credit, image_advantage=credit.image_advantage.astype(np.float16))
    return ill(measured={"credit": (half, metrics)})


@fault("wrong t at the window's end", window="the noise of a window's last step has mean .* and variance [2-9]")
def _():
    """The sampler takes t' = 0 there, and so does the loss, so that the ratio tells nothing."""
    subject, old = healthy(), healthy().played
    flow = subject.player.config.policy.flow
    grid, step = flow.grid(), np.asarray(old.step)[:, :, -1]

    @tiny_world.jit
    def drawn_again(x, x_next, step, eps):
        t, t_next, wide = grid[step], grid[step + 1], (slice(None), None, None)
        std = lambda end: flow.kernel.log_prob(x, jnp.zeros_like(x), x, t, end, t_guard=grid[1]).std[wide]  # noqa: E731
        drift = (x_next - std(t_next) * eps - x) / (t_next - t)[wide]
        return x - drift * t[wide] + std(jnp.zeros_like(t)) * eps

    eps = noise_of_steps(subject, step)
    ends = [drawn_again(old.x[:, t, -1], old.x_next[:, t, -1], step[:, t], eps[:, t]) for t in range(step.shape[1])]
    wrong = np.array(old.x_next)
    wrong[:, :, -1] = np.stack(ends, axis=1)
    walked = played("walked", x_next=wrong).walked
    made = played(x_next=wrong, clean=walked.clean, measured={"walked": walked})
    gap = subject.asked[0] - made.ask(made.played)[0]

    def ask_again(*given, **how):
        pictures, words = tiny_world.updater().ask_again(*given, **how)
        return pictures + gap, words

    return learning_by(measured={name: vars(made)[name] for name in ("rollout", "walked")}, ask_again=ask_again)


def noise_of_steps(subject, step) -> np.ndarray:
    """The noise that the player drew at these steps, [B, T, L, C]."""
    key = keys.at(subject.recipe.seed, "rollout", 0)
    numbers = (np.asarray([getattr(sample, name) for sample in subject.samples], np.uint32) for name in ("group", "member"))
    streams, shape = collect._Streams(key, *numbers), subject.played.x.shape[3:]
    draw = jax.vmap(lambda key, step: jax.random.normal(jax.random.fold_in(key, step), shape))
    return np.stack([draw(streams.member("steps", t), step[:, t]) for t in range(step.shape[1])], axis=1)


@fault("shuffled log-probs", image_ratio="the ratio of a fresh rollout is not one; largest .* of 16 fresh steps")
def _():
    return played(image_log_prob=np.asarray(healthy().played.image_log_prob)[::-1])


@fault("shuffled log-probs of words", intent_ratio="the ratio of fresh words is not one")
def _():
    return played(intent_log_prob=np.asarray(healthy().played.intent_log_prob)[::-1])


@fault("a step recorded beside its place", image_ratio="not one", window="steps 1 to 3 were drawn, not some of 0 to 2")
def _():
    return played(*REPLAYED, step=np.asarray(healthy().played.step) + 1)


@fault(
    "a stale context",
    contexts="caches? differs|other words|not those that the contexts saw",
    image_ratio="not one",
    intent_ratio="not one",
)
def _():
    """The update reads the source again where the dialogue went on from the first picture drawn."""
    pictures = np.array(healthy().played.script.pictures)
    pictures[:, 0] = np.repeat(np.asarray(healthy().played.script.source), healthy().group, axis=0)
    perceived = jax.tree.map(lambda x: x.at[:, 1].set(x[:, 0]), healthy().played.script.perceived)
    return script(*REPLAYED, pictures=pictures, perceived=perceived)


@fault("a picture scored that the next turn did not see", contexts="the pictures that were scored are not those that the contexts saw")
def _():
    pictures = healthy().rollout.pictures ^ 1
    return ill(measured={"rollout": dataclasses.replace(healthy().rollout, pictures=pictures)})


@fault("a truncated instruction", contexts="turn 1 of rollout 0 was conditioned on other words than", image_ratio="not one")
def _():
    counts = np.array(healthy().played.script.instruction_count)
    counts[:, 1] -= 2
    return script(*REPLAYED, instruction_count=counts)


@fault("answers without an intent", Opinion.WARN, intents="most answers hold no intent; 100% of the answers hold no intent")
def _():
    fallback = np.ones_like(healthy().rollout.fallback)
    return ill(measured={"rollout": dataclasses.replace(healthy().rollout, fallback=fallback)})


# sampler, autoencoder, groups ------------------------------------------------------------------------------------------------------


@fault("a sampler with another shift", samplers="shift is 3.0 in training and 1.0 in evaluation; the samplers draw different pictures")
def _():
    other = copy.copy(tiny_world.still_player())
    flow = dataclasses.replace(tiny_world.POLICY.flow, shift=1.0)
    other.config = dataclasses.replace(other.config, policy=dataclasses.replace(other.config.policy, flow=flow))
    other.denoise = tiny_world.jit(other._denoise, static_argnames=("size",))
    return ill("walked_by_evaluation", quiet=other)


@fault("an autoencoder of another scale", drift=r"2 turns through the autoencoder alone cost 1\d\d\.\d levels")
def _():
    dark = lambda pictures: (healthy_subject.autoencoder()(pictures) * 0.6).astype(np.uint8)  # noqa: E731
    return ill(measured={"redraw": dark})


@fault("a group of copies", groups="has the members .0, 0., not 0 to 1; .*draw the same noise|has the members .0, 0., not 0 to 1")
def _():
    copies = tuple(dataclasses.replace(sample, member=0) for sample in healthy().rollout.samples)
    return ill(measured={"rollout": dataclasses.replace(healthy().rollout, samples=copies)})


@fault("initial noise shared against the config", groups="start from the same noise, although rollout.noise=member")
def _():
    other = copy.copy(tiny_world.player())
    other.config = dataclasses.replace(other.config, noise="member")
    return ill(recipe=dataclasses.replace(healthy().recipe, player=other))


# rewards ---------------------------------------------------------------------------------------------------------------------------


class Judge:
    """A reward that changes what another one says."""

    def __init__(self, reward, change):
        self.name, self._reward, self._change = reward.name, reward, change

    def score(self, episode):
        verdict = self._reward.score(episode)
        return verdict if math.isnan(verdict.value) else dataclasses.replace(verdict, value=self._change(verdict.value, episode))


def judged(change, *names: str, judge=Judge):
    """A subject that is judged otherwise by the named rewards."""
    rewards = [judge(reward, change) if reward.name in names else reward for reward in healthy().recipe.suite._rewards]
    other = dataclasses.replace(healthy().recipe, suite=Suite(rewards, workers=1))
    subject = ill("verdicts", "scores", "credit", recipe=other)
    episodes = [
        [
            collect._episode(sample, list(np.moveaxis(subject.rollout.pictures, 1, 0)[: t + 1]), row)
            for row, sample in enumerate(subject.samples)
        ]
        for t in range(tiny_world.TURNS)
    ]
    vars(subject)["_played"] = subject.rollout, [other.suite.submit(turn) for turn in episodes]
    return subject


@fault("a reward that is constant", rewards="if is constant: 1 for right and wrong alike")
def _():
    return judged(lambda value, _: 1.0, "if")


@fault("all rewards constant", rewards="cc is constant: 0.5", credit="every turn of the small batch earns 0.5")
def _():
    return judged(lambda value, _: 0.5, "if", "cc", "ga")


@fault("a reward with its sign flipped", rewards="cc prefers what is wrong: right beats wrong in 0%")
def _():
    return judged(lambda value, _: 1 - value, "cc")


@fault("a reward that leaves [0, 1]", rewards=r"ga: scores from 0 to 5 leave \[0, 1\]")
def _():
    return judged(lambda value, _: 5 * value, "ga")


@fault("a reward that hardly listens", Opinion.WARN, rewards="if: right beats wrong in only 75%")
def _():
    return judged(lambda value, episode: value if int(episode.session.id[-1]) % 2 else 0.0, "if")


def no_answer(value, episode):
    raise ConnectionError("no answer")


@fault(
    "a judge that does not answer", rewards="cc: 100% of the verdicts failed .limit 5%.*no answer", verdicts="cc: 8 of 8 verdicts failed"
)
def _():
    return judged(no_answer, "cc")


@fault("a judge that fails on some sessions", verdicts=r"if: 4 of 8 verdicts failed; 25.0% of the verdicts .*limit 5.0%")
def _():
    return judged(lambda value, episode: no_answer(value, episode) if episode.session.id == "s5" else value, "if")


class Unsure(Judge):
    """A reward that finds nothing to measure, but in one session."""

    def score(self, episode):
        verdict = self._reward.score(episode)
        return verdict if math.isnan(verdict.value) or episode.session.id == "s5" else Verdict(value=math.nan, status=Status.UNMEASURABLE)


@fault(
    "a judge that finds little to measure",
    Opinion.WARN,
    rewards="cc: judged none of its pairs; .* are unmeasurable",
    verdicts="cc: 4 of 8 verdicts have no score",
)
def _():
    return judged(None, "cc", judge=Unsure)


# learning --------------------------------------------------------------------------------------------------------------------------


class Flipped(EditR2):
    """Credit with its sign wrong."""

    def credits(self, rollouts, scores):
        credits, metrics = super().credits(rollouts, scores)
        return [dataclasses.replace(credit, image_advantage=-credit.image_advantage) for credit in credits], metrics


@fault("advantages with their sign flipped", credit="advantages go against the rewards inside groups .correlation -1")
def _():
    return ill("credit", recipe=Flipped(**vars(healthy().recipe)))


def learning_by(*out_of_date: str, measured: dict | None = None, **methods):
    """A subject whose updater does some things otherwise."""
    other = copy.copy(tiny_world.updater())
    vars(other).update(methods)
    return ill(*out_of_date, measured=measured, recipe=dataclasses.replace(healthy().recipe, updater=other))


GRADIENTS = ("gradient_of_pictures", "gradient_of_words")


@fault("dropped masks", masks="a batch in which nothing teaches has a gradient of .*; NaN in rollouts that do not teach changes")
def _():
    def slope(weights, chunks, *, old, **more):
        every = np.ones_like(chunks[0].credit.image_mask)
        unmasked = [dataclasses.replace(chunk, credit=dataclasses.replace(chunk.credit, image_mask=every)) for chunk in chunks]
        old = {id(new): old[id(chunk)] for new, chunk in zip(unmasked, chunks, strict=True)}
        return tiny_world.updater().slope(weights, unmasked, old=old, **more)

    return learning_by(*GRADIENTS, slope=slope)


@fault("a loss with its sign flipped", learning="makes bad pictures likelier than good ones; .*makes bad words likelier")
def _():
    def slope(*given, **more):
        made = tiny_world.updater().slope(*given, **more)
        return made._replace(gradient=jax.tree.map(jnp.negative, made.gradient))

    return learning_by(*GRADIENTS, slope=slope)


@fault("words that teach no expert", adapters="words teach the und experts nothing")
def _():
    def slope(*given, **more):
        made = tiny_world.updater().slope(*given, **more)
        und = lambda path: any(getattr(part, "key", None) == "und" for part in path)  # noqa: E731
        blank = lambda path, leaf: jnp.zeros_like(leaf) if und(path) else leaf  # noqa: E731
        return made._replace(gradient=jax.tree_util.tree_map_with_path(blank, made.gradient))

    return learning_by(*GRADIENTS, slope=slope)


@fault("adapter on in the reference", reference="image/kl is .* under an adapter that has learned nothing: the reference is another model")
def _():
    class WithAdapter(Network):
        def reference(self, frozen):
            return self.policy(tiny_world.moved().trainable, frozen)

    network, known = WithAdapter(tiny_world.net().graph, tiny_world.net().bare), tiny_world.updater()
    other = tiny_world.quickly(Updater, network, known.objective, known.policy, known.optimizer)
    other.ask_again = known.ask_again
    return ill(recipe=dataclasses.replace(healthy().recipe, updater=other))


@fault("padding that is felt", padding="empty slots are felt", image_ratio="not one", intent_ratio="not one")
def _():
    def ask_again(weights, played, **how):
        full = np.full_like(played.script.instruction_count, tiny_world.SLOTS.later)
        return tiny_world.updater().ask_again(
            weights, dataclasses.replace(played, script=dataclasses.replace(played.script, instruction_count=full)), **how
        )

    return learning_by(*ASKED, ask_again=ask_again)


@fault("a clip narrower than the rounding", Opinion.WARN, intent_ratio="rounding takes more than 50% of the clip width 1e-0[67]")
def _():
    objective = tiny_world.updater().objective
    narrow = dataclasses.replace(objective.intent.settings, clip_low=1e-6, clip_high=1e-6)
    other = copy.copy(tiny_world.updater())
    other.objective = dataclasses.replace(objective, intent=dataclasses.replace(objective.intent, settings=narrow))
    return ill(recipe=dataclasses.replace(healthy().recipe, updater=other, config=StepConfig(rows=4)))


# on paper --------------------------------------------------------------------------------------------------------------------------


@fault("a group of one", batch="data.group is 1: a rollout without others to compare with has no advantage")
def _():
    return ill(config=healthy_subject.config(data__group=1))


@fault("more updates than batches", batch="step.updates is 3, but 4 sessions of 2 rollouts make 2 batch.es.")
def _():
    return ill(config=healthy_subject.config(step__updates=3))


@fault("a warmup that outlasts the run", Opinion.WARN, batch="optimizer.warmup_steps=500 outlasts all 12 updates of the run")
def _():
    return ill(config=healthy_subject.config(optimizer__warmup_steps=500))


@fault("an instruction that does not fit", texts="session s5 long: the instruction of turn 1 takes 32 tokens but has 6 slots")
def _():
    session = healthy().sessions[0]
    turns = (session.turns[0], dataclasses.replace(session.turns[1], instruction="w1 " * 30))
    return ill(sessions=(*healthy().sessions, dataclasses.replace(session, id="s5 long", turns=turns)))


@fault("versions that changed under a run", Opinion.WARN, environment="jax was 0.0.1, is")
def _():
    return ill(begun_with={"jax": "0.0.1", "python": workdir.versions()["python"]})


# the tests -------------------------------------------------------------------------------------------------------------------------


def heard(subject, names) -> dict[str, Finding]:
    """What is said by the checks that are not silent."""
    return {found.name: found for found in checks.run(subject, names) if found.advice}


def assert_found(name: str, names) -> None:
    plant, says, opinion = FAULTS[name]
    found = heard(plant(), names)
    assert found.keys() == says.keys(), {name: finding.evidence for name, finding in found.items()}
    for check, message in says.items():
        assert found[check].opinion is opinion, found[check]
        assert re.search(message, found[check].evidence) and len(found[check].advice) > 40, found[check]


@pytest.mark.parametrize("name", [name for name in FAULTS if not set(FAULTS[name].says) & set(LEARNING)])
def test_a_planted_fault_is_found(name):
    assert_found(name, [check for check in checks.CHECKS if check not in (*LEARNING, *SEEING) or check in FAULTS[name].says])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_and_nothing_else_is_said(name):
    assert_found(name, ())


def test_the_table_is_long_enough():
    assert len(FAULTS) >= 14 and len({check for fault in FAULTS.values() for check in fault.says}) == len(checks.CHECKS)
