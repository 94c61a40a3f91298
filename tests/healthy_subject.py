"""A healthy run for the doctor, small enough for tests, and copies of it to be made ill.

The tiny world's model plays pictures of the embedded world, judged by the real rewards. Its random autoencoder gives no picture back, so
where pictures go through one it is that of the shipped base. Made once in a process, and what it measures is kept.
"""

import dataclasses
import functools

import numpy as np
import tiny_world
from flax import nnx

from editr2_jax import assemble, judging
from editr2_jax.cli import common
from editr2_jax.doctor import known_pairs
from editr2_jax.doctor.settings import DoctorConfig
from editr2_jax.doctor.subject import Subject
from editr2_jax.models.bagel import pixels
from editr2_jax.porting import bagel_weights
from editr2_jax.records import Sample
from editr2_jax.tabletop import world
from editr2_jax.training.edit_r2 import EditR2, StepConfig
from editr2_jax.training.train_batch import AdvantageConfig

SIZE = (tiny_world.HEIGHT, tiny_world.WIDTH)
SEED = 3  # of a small batch whose answers hold an intent in three rollouts of four
STEP = StepConfig(rows=4, updates=2)
SETTINGS = {  # of small_run.py, as the tiny world plays
    "data.sessions": 4,
    "step.rows": 4,
    "step.updates": 2,
    "rollout.window.size": 2,
    "rollout.window.last": 3,
}


def config(**more):
    """The run's config, `more` values replaced (dots written as two underscores)."""
    values = SETTINGS | {name.replace("__", "."): value for name, value in more.items()}
    file = str(tiny_world.__file__).replace("tiny_world.py", "end_to_end/small_run.py")
    return common.load_config(file, [(name, str(value)) for name, value in values.items()])


@functools.cache
def samples() -> tuple[Sample, ...]:
    """The tiny world's sessions, with pictures and annotations of the embedded world."""
    made = []
    for sample in tiny_world.samples():
        known, picture, _ = world.make_session("train", 0, sample.group, turns=tiny_world.TURNS, subset="plain", size=SIZE)
        words = zip(known.turns, sample.session.turns, strict=True)
        turns = tuple(dataclasses.replace(turn, instruction=said.instruction) for turn, said in words)
        session = dataclasses.replace(known, id=sample.session.id, turns=turns)
        made.append(dataclasses.replace(sample, session=session, picture=picture))
    return tuple(made)


def recipe(**more) -> EditR2:
    parts = {"player": tiny_world.player(), "updater": tiny_world.updater(), "frozen": tiny_world.moved().frozen}
    parts["suite"] = judging.suite(config(), lambda: None)
    settings = {"tokenizer": tiny_world.Words(), "seed": SEED, "advantage": AdvantageConfig(), "config": STEP}
    return EditR2(**parts | settings | more)


@functools.cache
def autoencoder():
    """The shipped base's way from pictures to pictures."""
    graph, state = nnx.split(bagel_weights.load_folder(assemble.checkpoint_folder("tabletop_tiny")).vae)

    def there_and_back(state, pictures):
        model = nnx.merge(graph, state)
        return pixels.to_uint8(model.decode(model.encode(pixels.normalise(pictures))))

    compiled = tiny_world.jit(there_and_back)
    return lambda pictures: np.asarray(compiled(state, pictures))


class Examined(Subject):
    """Quick to compile, and with an autoencoder."""

    @functools.cached_property
    def passes(self):
        return tiny_world.quickly(lambda: Subject.passes.func(self))

    @functools.cached_property
    def redraw(self):
        return autoencoder()


@functools.cache
def healthy() -> Examined:
    network, trainable, frozen = tiny_world.parts()
    sessions = [sample.session for sample in samples()[:: tiny_world.MEMBERS]]
    return Examined(
        config=config(),
        settings=DoctorConfig(),
        model=assemble.Model(tiny_world.world_model().config, network, trainable, frozen, tiny_world.Words()),
        weights=tiny_world.moved(),
        recipe=recipe(),
        quiet=tiny_world.still_player(),
        sessions=(*sessions, *(dataclasses.replace(session, id=f"{session.id} again") for session in sessions)),
        samples=samples(),
        pairs=tuple(known_pairs.of_world(6, seed=0, turns=3, size=(48, 48))),
    )


MEASURED = ("_played", "rollout", "verdicts", "scores", "credit", "asked", "asked_as_loss", "passes", "replay", "walked", "redraw")


def ill(*out_of_date: str, measured: dict | None = None, **fields) -> Examined:
    """The healthy subject with other `fields`; some of what it measured replaced, some of it `out_of_date` and measured anew."""
    well = healthy()
    for name in MEASURED:
        getattr(well, name)
    given = {field.name for field in dataclasses.fields(well)}
    made = dataclasses.replace(well, **fields)
    vars(made).update({name: value for name, value in vars(well).items() if name not in given and name not in out_of_date})
    vars(made).update(measured or {})
    return made
