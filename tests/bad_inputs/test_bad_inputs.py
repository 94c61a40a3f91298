"""The table of bad inputs: what a person can get wrong, and what they are told. Everything goes through the command line.

A row breaks one thing and runs a command. The command must end with the row's status and one message that says what is wrong, where, and
what to do; files that were there stay as they are, and nothing half-made is left. Status 2 is a mistake of the caller, 1 a run that cannot
go on, or a `data check` that found something. Finer cases of the same kinds stand with their modules: records and pictures in
tests/data/test_session_source.py and test_images.py, weights in tests/porting/test_bagel_weights.py and test_safetensors_io.py, config
files and flags in tests/cli/test_common.py, judges in tests/rewards/test_suite.py, intents in tests/rollouts.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_checkpoint import CONFIG, VOCAB, Outcome, call

from editr2_jax.runtime import workdir as workdirs

pytestmark = pytest.mark.usefixtures("compiled_once")

ALLOWED = ("run/config.json", "run/versions.json", "run/data/", "run/checkpoints/", "run/verdicts/")  # a start may leave these


class Place:
    """A checkpoint, a session folder, a picture and room for a run, all sound until a row breaks something."""

    def __init__(self, path: Path, checkpoint: Path):
        self.path, self.shared = path, checkpoint
        self.run, self.out = path / "run", path / "out"
        self.cleanup = contextlib.ExitStack()

    @property
    def checkpoint(self) -> Path:
        """A copy of the checkpoint that may be broken."""
        copy = self.path / "checkpoint"
        return copy if copy.exists() else Path(shutil.copytree(self.shared, copy))

    def picture(self, name: str = "photo.png", size: tuple[int, int] = (48, 48)) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
        return file

    def sessions(self, *changes: dict, split: str = "train", name: str = "sessions") -> Path:
        """A session folder: one sound line, then one for every set of changes."""
        folder = self.path / name
        records = [session(number) | change for number, change in enumerate(({}, *changes))]
        for number in range(len(records)):
            self.picture(f"{name}/images/{number}.png")
        (folder / f"{split}_metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    def train(self, *more, config: str = str(CONFIG), checkpoint: Path | None = None) -> tuple:
        weights = f"--config.model.checkpoint={checkpoint or self.shared}"
        return ("train", f"--config={config}", f"--workdir={self.run}", weights, *more)

    def edit(self, *more, image: Path | None = None, checkpoint: Path | None = None, say: str = "Remove ball") -> tuple:
        known = (f"--config={CONFIG}", f"--checkpoint={checkpoint or self.shared}", f"--out={self.out}")
        return ("edit", *known, f"--image={image or self.picture()}", f"--say={say}", *more)

    def tensors(self, change: Callable[[dict], object], file: str = "ema") -> Path:
        """The checkpoint with its tensors changed in place."""
        path = self.checkpoint / f"{file}.safetensors"
        found = load_file(path)
        change(found)
        save_file(found, path)
        return self.checkpoint

    def fields(self, file: str, change: Callable[[dict], object]) -> Path:
        """The checkpoint with a JSON file changed in place."""
        path = self.checkpoint / file
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))
        return self.checkpoint

    def saved_run(self) -> Path:
        """A run that has saved step 1, made without training."""
        from editr2_jax import assemble, experiment
        from editr2_jax.cli import common
        from editr2_jax.runtime.checkpoints import Checkpoints
        from editr2_jax.training import state as states
        from editr2_jax.training.state import OptimizerConfig

        config = common.load_config(str(CONFIG), [("model.checkpoint", str(self.shared))])
        common.claim_workdir(str(self.run), config)
        fresh = states.create(assemble.model(config).trainable, assemble.settings(OptimizerConfig, config.optimizer).build())
        with Checkpoints(self.run / "checkpoints") as checkpoints:
            checkpoints.save(1, experiment.arrays_of(fresh), {"step": 1})
        return self.run


def session(number: int) -> dict:
    """A sound line of two turns."""
    texts = ["Remove [ball]", "Change the color of [box] to [red]"]
    return {
        "image": f"images/{number}.png", "instruction": [text.replace("[", "").replace("]", "") for text in texts], "turns": 2,
        "task_type": ["subject_remove", "color_alter"], "formatted_instruction": texts, "bg_consistency": [True, True],
        "unchanged_objects": [["star", "box"], ["star"]], "available_objects": [["star", "box"], ["star", "red box"]],
        "all_objects": [["star", "box", "ball"], ["star", "box", "ball", "red box"]],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path, small_checkpoint):
    made = Place(tmp_path, small_checkpoint)
    with made.cleanup:
        yield made


# what can be wrong -----------------------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[Callable[[Place], tuple], int, str]] = {}  # name -> (breaks something and gives the command, status, message)


def row(name: str, status: int, message: str):
    """Adds a row; `message` is a regular expression that the message must contain."""

    def add(prepare):
        ROWS[name] = (prepare, status, message)
        return prepare

    return add


def override(name: str, key: str, value, message: str) -> None:
    """A row about the value of one config key, refused before anything is computed."""
    row(name, 2, message)(lambda p: p.train(f"--config.{key}={value}", f"--config.data.path={p.sessions()}"))


# the command and its config

row("unknown verb", 2, r"there is no verb 'trian' \(the nearest is train\); the verbs are")(lambda p: ("trian",))
row("unknown flag", 2, r"unknown flag --wrkdir \(the nearest is --workdir\); see python -m editr2_jax train --help")(
    lambda p: ("train", f"--config={CONFIG}", f"--wrkdir={p.run}")
)
row("missing config file", 2, r"small_rum\.py: there is no such config file \(the nearest is .*small_run\.py\)")(
    lambda p: p.train(config=CONFIG.with_name("small_rum.py"))
)
row("unknown variant", 2, r"small_run\.py:\d+: .*there is no variant 'phone'; this config has edit_r2, supervised, autoencoder")(
    lambda p: p.train(config=f"{CONFIG}:phone")
)
override("unknown config key", "optimizer.learning_rat", 1, r"no such key in this config \(the nearest is .*learning_rate\)")
override("wrong type of override", "loop.steps", "many", r"--config\.loop\.steps wants a value of type int, such as 6; got 'many'")
override("a group for a value", "evaluate", 3, r"--config\.evaluate is a group, not a value; set one of --config\.evaluate\.")


@row("config file that raises", 2, r"mine\.py:2: this config does not load: NameError: name 'nothing' is not defined")
def _(p):
    (p.path / "mine.py").write_text("def get_config():\n    return nothing\n")
    return p.train(config=str(p.path / "mine.py"))


# the workdir


@row("unwritable workdir", 2, r"run: cannot write here \(.*\); choose another --workdir, or change its permissions")
def _(p):
    p.run.write_text("a file stands where the folder should be")
    return p.train()


@row("workdir of another run", 2, r"config\.json: this workdir belongs to another config \(seed was 0, is 7\); choose another --workdir")
def _(p):
    p.saved_run()
    return p.train("--config.seed=7")


@row("workdir in use", 2, r"run: process \d+ is writing into this workdir; stop it first, or choose another --workdir")
def _(p):
    p.run.mkdir()
    p.cleanup.enter_context(workdirs.exclusive(p.run))
    return p.train()


@row("broken config.json", 2, r"config\.json:1: not JSON \(.*\); restore the file, or choose another --workdir")
def _(p):
    p.run.mkdir()
    (p.run / "config.json").write_text('{"seed": 0')
    return p.train()


# sessions

row("folder that is not there", 2, r"nowhere: does not exist; give a folder with a SPLIT_metadata\.jsonl file")(
    lambda p: p.train(f"--config.data.path={p.path / 'nowhere'}")
)
row("folder without jsonl", 2, r"out: no \*_metadata\.jsonl file in this folder; give a session folder")(
    lambda p: (p.out.mkdir(), p.train(f"--config.data.path={p.out}"))[1]
)


def bad_line(name: str, message: str, **changes) -> None:
    """A row about the second line of a session folder, told by `train` before it starts; `data check` says the same below."""
    row(name, 2, r"train_metadata\.jsonl:2: " + message)(lambda p: p.train(f"--config.data.path={p.sessions(changes)}"))


bad_line("three instructions and two types", r"3 instructions but 2 task_types; give one task_type per turn", instruction=["a", "b", "c"])
bad_line("unknown task type", r"turn 0: task_type is \"remove\" .*it is one of subject_add", task_type=["remove", "color_alter"])
bad_line("path out of the folder", r"image '\.\./1\.png' leads out of the folder; give a path below it", image="../1.png")
bad_line("missing picture", r"image .*none\.png is missing; put the picture there or remove the line", image="images/none.png")


@row("bad JSON line", 2, r"train_metadata\.jsonl:2: not JSON: .* at column \d+; write one JSON object per line")
def _(p):
    folder = p.sessions()
    with (folder / "train_metadata.jsonl").open("a") as file:
        file.write('{"image": "images/1.png",\n')
    return p.train(f"--config.data.path={folder}")


@row("truncated PNG", 1, r"train_metadata\.jsonl:2: image .*1\.png is damaged or incomplete \(.*\); copy it again or remove its session")
def _(p):
    folder = p.sessions({})
    data = (folder / "images/1.png").read_bytes()
    (folder / "images/1.png").write_bytes(data[: len(data) // 2])
    return ("data", "check", folder)


@row("empty text target", 1, r"jsonl:2: turn 0: the new text of .* is empty; give the text that is to appear(.|\n)*left out of training")
def _(p):
    formatted = ["Add text '[]' on the image", "Change the color of [box] to [red]"]
    return ("data", "check", p.sessions({"task_type": ["text_change", "color_alter"], "formatted_instruction": formatted}))


@row(
    "a picture in train and test",
    1,
    r"train_metadata\.jsonl:1: image .*0\.png' is also in the split test \(.*test_metadata\.jsonl:1\); keep it",
)
def _(p):
    p.sessions(split="train")
    return ("data", "check", p.sessions(split="test"))  # "test" comes first in the order of the names


@row("supervised data without targets", 2, r"session train/\d has no ground truth; the supervised recipe needs `target` and `intent`")
def _(p):
    return p.train(f"--config.data.path={p.sessions({})}", config=f"{CONFIG}:supervised")


row("instruction too long for its slots", 2, r"session train/1: the instruction of turn 1 takes \d+ tokens but has 36 slots; raise")(
    lambda p: p.train(f"--config.data.path={p.sessions({'instruction': ['Remove ball', 'Change it ' * 40]})}")
)
row("world too small to draw", 2, "A tabletop picture needs at least 24 pixels on each side, got 8 x 8")(
    lambda p: p.train("--config.tabletop.size=(8,8)")
)


# checkpoints

row("no such checkpoint", 2, r"model\.checkpoint: .*nowhere' is no folder, nor a shipped checkpoint .*; give the folder that holds")(
    lambda p: p.edit(checkpoint=p.path / "nowhere")
)


@row("NaN in the weights", 2, r"ema\.safetensors: the weights do not fit .*\n  not finite: vae2llm\.weight \(2 numbers\)")
def _(p):
    def poison(tensors):
        tensors["vae2llm.weight"] = tensors["vae2llm.weight"].copy()
        tensors["vae2llm.weight"][0, :2] = np.nan

    return p.edit(checkpoint=p.tensors(poison))


row("weights lack a key", 2, r"ae\.safetensors: .*\(1 unfilled\); check that .*\n  unfilled: encoder\.conv_in\.weight")(
    lambda p: p.edit(checkpoint=p.tensors(lambda tensors: tensors.pop("encoder.conv_in.weight"), "ae"))
)
row("weights have a key too many", 2, r"ema\.safetensors: .*\(1 unused\).*\n  unused: stray\.weight")(
    lambda p: p.edit(checkpoint=p.tensors(lambda tensors: tensors.update({"stray.weight": np.zeros(3, np.float32)})))
)
row("misshapen weight", 2, r"\(1 misshapen\).*\n  misshapen: llm2vae\.bias \(file \(63,\), model \(64,\)\)")(
    lambda p: p.edit(checkpoint=p.tensors(lambda tensors: tensors.update({"llm2vae.bias": tensors["llm2vae.bias"][1:]})))
)
row("weights of another size", 2, r"misshapen\); check that the configuration is theirs\.\n(  misshapen: language_model.*mlp.*\n)+")(
    lambda p: p.edit(checkpoint=p.fields("llm_config.json", lambda fields: fields.update(intermediate_size=160)))
)
row("missing config field", 2, r"llm_config\.json: field 'hidden_size' is missing; add it")(
    lambda p: p.edit(checkpoint=p.fields("llm_config.json", lambda fields: fields.pop("hidden_size")))
)


def without(name: str) -> Callable[[Place], tuple]:
    return lambda p: ((p.checkpoint / name).unlink(), p.edit(checkpoint=p.checkpoint))[1]


row("missing config.json of a checkpoint", 2, r"llm_config\.json: no such file; a checkpoint folder holds")(without("llm_config.json"))
row("missing weights", 2, r"checkpoint: no weights here; looked for ae\.safetensors")(without("ae.safetensors"))
row("missing tokenizer file", 2, r"merges\.txt is missing; give a checkpoint folder with vocab\.json")(without("merges.txt"))


@row("truncated weights", 2, r"ema\.safetensors: the file is cut short \(.*\); copy it again")
def _(p):
    file = p.checkpoint / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return p.edit(checkpoint=p.checkpoint)


@row("a pointer in place of the weights", 2, r"ema\.safetensors: this is a Git LFS pointer, not the weights; fetch the file itself")
def _(p):
    (p.checkpoint / "ema.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return p.edit(checkpoint=p.checkpoint)


@row("tokenizer of another checkpoint", 2, r"the tokenizer's markers .* take tokenizer and weights from one checkpoint")
def _(p):
    from editr2_jax.data.tokenizer import train_tiny
    from editr2_jax.tabletop import world

    train_tiny(world.vocabulary_sentences(300), VOCAB - 60, p.checkpoint)
    return p.edit(checkpoint=p.checkpoint)


# settings that cannot hold

override("group larger than the rows", "data.group", 4, r"data\.group is 4 but step\.rows is 2.*set step\.rows to a multiple")
override("more updates than batches", "step.updates", 2, r"step\.updates is 2, but 1 sessions of 2 rollouts make 1 batch.*lower step\.rows")
override("unknown reward", "rewards.use", "if,ccc", r"rewards\.use: there is no 'ccc', did you mean 'cc'; choose from cc, ga, if, traj")
override(
    "unknown arithmetic", "rewards.arithmetic", "edit_r3", r"rewards\.arithmetic: there is no 'edit_r3', did you mean 'edit_r2'; choose"
)
override(
    "arithmetic without registers", "rewards.arithmetic", "edival", r"rewards\.features=tabletop shows none; take a DINOv3, or 'cc' out of"
)
override("unknown detector", "rewards.detector", "dino", r"rewards\.detector: there is no 'dino'; choose from .*none, tabletop")
override(
    "detector without its checkpoint", "rewards.detector", "grounding_dino", r"rewards\.grounding_dino\.folder is empty; give the folder"
)
override("unknown features", "rewards.features", "vitt", r"rewards\.features: there is no 'vitt', did you mean 'vit'; choose")
override("IF without a detector", "rewards.detector", "none", r"the reward 'if' needs a detector; set rewards\.detector, or take 'if' out")
override("filter without its reward", "rewards.use", "cc,ga", r"advantage\.filter is 'image' but .*, 'if', .*advantage\.filter=off")
override("KL without a reference", "train", "full", r"kl_weight is 0\.01 .* train is 'full'.*set .*kl_weight=0, or train=lora")
override("window beyond the grid", "rollout.window.last", 9, r"a window in steps 0 to 8 does not fit into the 3 steps of 4 grid points")
override("window larger than its range", "rollout.window.size", 3, r"no window of 3 steps fits into steps 0\.\.1: want ")
override("unknown window", "rollout.window.kind", "slide", r"WindowConfig\.kind is 'slide'; choose one of random, sliding")
override("steps without a density", "rollout.kernel.kind", "ode", r"kernel 'ode' .* draws nothing.*set window\.size=0, or choose")
override("unknown schedule", "rollout.flow.schedule", "flux", r"FlowConfig\.schedule is 'flux'; choose one of bagel, static, dynamic")
override("nothing to replay", "rollout.window.size", 0, r"objective\.image\.kind=grpo learns from stochastic steps, but .*size is 0")
override("unknown objective", "objective.image.kind", "grop", r"objective\.image\.kind: there is no 'grop', did you mean 'grpo'; choose")
override("a KL of steps on the path", "objective.image.kind", "nft", r"objective\.image\.kl is 'latent'.*set objective\.image\.kl=velocity")
override("a KL without gradient", "objective.intent.kl", "k1", r"expected gradient on the policy's own tokens is zero")
override("an average that does not exist", "old_policy.kind", "slow", r"the schedule of an average is 'slow'; choose off, copy, ramp")
override("unknown grouping", "advantage.grouping", "turn", r"AdvantageConfig\.grouping is 'turn'; choose one of dialogue, dialogue_turn")
override("unknown recipe", "recipe", "grpo", r"recipe is 'grpo'; choose one of edit_r2, supervised, autoencoder")
override("saving every 0 steps", "loop.save_every", 0, r"LoopConfig\.save_every is 0; give at least 1")


# runs and pictures that others read

row("run without a checkpoint", 2, r"there is no checkpoint here; train first")(
    lambda p: (p.sessions(name="run"), p.edit(f"--run={p.run}"))[1]
)
row("checkpoint of another rank", 2, r"leaves of another kind: .*lora.*Start with the config that this checkpoint was written with")(
    lambda p: ("edit", f"--run={p.saved_run()}", f"--image={p.picture()}", "--say=Go", f"--out={p.out}", "--config.lora.rank=4")
)


@row("damaged checkpoint", 2, r"checkpoints/1: this checkpoint cannot be read \(.*\); copy it again, or remove.* \(there: none\)")
def _(p):
    for file in (p.saved_run() / "checkpoints/1/arrays").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:100])
    return p.train()


row("picture that is not there", 2, r"none\.png is missing; put the picture there")(lambda p: p.edit(image=p.path / "none.png"))
row("text in place of a picture", 2, r"notes\.png is no picture; give a PNG, JPEG, WEBP, BMP file")(
    lambda p: ((p.path / "notes.png").write_text("no picture"), p.edit(image=p.path / "notes.png"))[1]
)
row("empty instruction", 2, r"instruction 0 is empty; say what to edit")(lambda p: p.edit(say=" "))
row("long instruction by hand", 2, r"session photo: the instruction of turn 0 takes \d+ tokens but has 72 slots; raise rollout\.slots")(
    lambda p: p.edit(say="Remove the ball " * 40)
)
row("unwritable --out", 2, r"out: cannot write here \(.*\); choose another --out")(lambda p: (p.out.write_text("a file"), p.edit())[1])


@row("picture larger than the model takes", 2, r"a picture of 256x256 pixels does not fit this model: sides must be .* at most 128")
def _(p):
    folder = p.fields("bagel_config.json", lambda fields: fields["vae_transform"].update(max_size=256))
    return p.edit(checkpoint=folder, image=p.picture("large.png", (300, 300)))


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_input_is_told(place, name):
    prepare, status, message = ROWS[name]
    argv = [str(argument) for argument in prepare(place)]
    before = content(place.path)
    outcome = call(*argv)
    told = outcome.out if argv[:2] == ["data", "check"] else outcome.err
    assert outcome.status == status and "Traceback" not in outcome.err, outcome
    assert re.search(message, told), told
    assert_one_message(outcome) if told is outcome.err else None
    after = content(place.path)
    assert {name: after.get(name) for name in before} == before
    made = {str(file) for file in after.keys() - before.keys()}
    assert all(file.startswith(ALLOWED) for file in made), made


def assert_one_message(outcome: Outcome) -> None:
    """`error: ...` in one line; what a message lists stands below it, indented."""
    first, *listed = outcome.err.splitlines()
    assert first.startswith("error: ") and all(line.startswith("  ") for line in listed), outcome.err


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_table_is_long_enough():
    assert len(ROWS) >= 30


def test_every_bad_line_of_a_folder_is_told_at_once(place):
    changes = ({"task_type": ["remove", "color_alter"]}, {"turns": 3}, {"image": "/etc/passwd"})
    folder = place.sessions(*changes)
    for command, status in ((("data", "check", folder), 1), (place.train(f"--config.data.path={folder}"), 2)):
        outcome = call(*command)
        assert outcome.status == status
        assert all(f"train_metadata.jsonl:{line}: " in outcome.out + outcome.err for line in (2, 3, 4)), outcome


def test_a_start_that_failed_may_be_corrected_in_the_same_workdir(place):
    """A misspelt checkpoint must not claim the workdir: the second start gets as far as its own mistake."""
    assert "is no folder" in call(*place.train(checkpoint=place.path / "nowhere")).err
    assert "there is no 'dino'" in call(*place.train("--config.rewards.detector=dino")).err
