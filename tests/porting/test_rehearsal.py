"""Checkpoints of random numbers, and their way through all commands, as the 29 GB go; kills on the way leave nothing half-valid."""

import json
import subprocess
import sys
import time

import bagel_cases as golden
import ml_dtypes
import numpy as np
import pytest
import small_checkpoint
from safetensors.numpy import load_file, save_file

from editr2_jax.cli import port
from editr2_jax.models.bagel import config
from editr2_jax.porting import bagel_weights, fake, meter, rehearsal

MANIFEST = golden.FOLDER / "manifest_7b.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A fake checkpoint of the recorded sizes in two shards, and the digests of its tensors."""
    folder = tmp_path_factory.mktemp("fake") / "folder"
    return folder, fake.write(folder, config.tiny(), shards=2)


def test_a_fake_has_every_key_and_shape_and_finite_numbers_of_the_release_s_types(written):
    folder, digests = written
    ema, ae = bagel_weights.open_folder(folder)
    real = {**load_file(golden.FOLDER / "ema.safetensors"), **load_file(golden.FOLDER / "ae.safetensors")}
    assert {name: tensor.shape for name, tensor in {**ema, **ae}.items()} == {name: tensor.shape for name, tensor in real.items()}
    assert set(digests) == set(real)
    assert {tensor.dtype for tensor in ema.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert {tensor.dtype for tensor in ae.values()} == {np.dtype(np.float32)}
    numbers = np.asarray(ema["language_model.model.embed_tokens.weight"]).astype(np.float32)
    assert np.abs(numbers).min() >= 2**-7 and np.abs(numbers).max() < 2**-3 and abs(numbers.mean()) < 1e-3
    assert len(set(digests.values())) == len(digests), "no two tensors are the same"
    assert bagel_weights.read_config(folder) == config.tiny()


def test_a_seed_gives_the_same_bytes_however_they_are_cut(written, tmp_path):
    folder, digests = written
    assert fake.write(tmp_path / "again", config.tiny()) == digests
    assert fake.write(tmp_path / "other", config.tiny(), seed=1) != digests
    assert fake.compare(folder, digests) == []


def test_what_differs_is_named(written):
    folder, digests = written
    changed = digests | {"vae2llm.bias": "0", "stray": "0"}
    del changed["encoder.conv_in.bias"]
    assert fake.compare(folder, changed) == ["encoder.conv_in.bias", "stray", "vae2llm.bias"]


def test_the_manifest_of_the_release_is_the_7b_model():
    size = fake.of_manifest(MANIFEST)
    assert size == config.bagel_7b()
    assert fake.size(size) == 2 * 14_607_260_128 + 4 * 83_819_683
    assert fake.shrunk(size, 2).decoder.layers == 2 and fake.shrunk(size, 30).vit.layers == 26


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told["ema"]["tensors"].pop("vae2llm.bias"), "ema differs from the model of its configuration in vae2llm.bias"),
        (lambda told: told["config"]["llm"].update(hidden_size=1792), "head_dim|ema differs"),
        (lambda told: told.pop("config"), "not a manifest of a checkpoint"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    told = json.loads(MANIFEST.read_text())
    change(told)
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        fake.of_manifest(tmp_path / "manifest.json")


def test_the_meter_tells_share_rate_and_what_is_left():
    now, lines = [0.0], []
    done = meter.Meter(40_000_000_000, lines.append, clock=lambda: now[0])
    for now[0], size in ((1.0, 10_000_000_000), (10.0, 10_000_000_000), (10.5, 10_000_000_000), (12.0, 10_000_000_000)):
        done("tensor", size)
    assert [line.split() for line in lines] == [
        "20.0 GB of 40.0 GB 50% 2.00 GB/s eta 10s tensor".split(),
        "40.0 GB of 40.0 GB 100% 3.33 GB/s eta 0s tensor".split(),
    ]


def test_commands_load_compare_and_tell_the_peak(written, tmp_path, capsys):
    folder, digests = written
    (tmp_path / "digests.json").write_text(json.dumps(digests))
    assert port.main(["compare", f"--checkpoint={folder}", f"--digests={tmp_path / 'digests.json'}"]) == 0
    out = capsys.readouterr().out
    assert "291 tensors: identical" in out and "peak host memory" in out
    assert port.main(["compare", f"--checkpoint={golden.FOLDER}", f"--digests={tmp_path / 'digests.json'}"]) == 1
    assert "291 differ: connector.fc1.bias" in capsys.readouterr().out
    with pytest.raises(ValueError, match="either --against=DIR"):
        port.main(["compare", f"--checkpoint={folder}"])
    with pytest.raises(ValueError, match="--manifest and --like both name a model"):
        port.main(["fake", "--manifest=a", "--like=b", f"--out={tmp_path / 'out'}"])


def test_a_rehearsal_wants_a_new_folder_and_room(tmp_path):
    with pytest.raises(ValueError, match="exists; choose another --out"):
        next(rehearsal.run(tmp_path, [], fake_size=1))
    with pytest.raises(ValueError, match="are free, the rehearsal takes"):
        next(rehearsal.run(tmp_path / "out", [], fake_size=1 << 60))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_small_checkpoint_goes_all_the_way_and_comes_back_identical(tmp_path):
    """The command that rehearses the 29 GB, on the recorded sizes: loads are sharded over eight simulated devices."""
    process = small_checkpoint.start("port", "rehearse", f"--like={golden.FOLDER}", f"--out={tmp_path / 'out'}", "--shards=3")
    out, _ = process.communicate(timeout=small_checkpoint.PATIENCE)
    assert process.returncode == 0, out
    assert out.count("\nidentical\n") == 4 and "291 tensors: identical" in out and "| export |" in out
    assert "device 7 of 8: its 0.4 MB of 3.0 MB" in out
    assert not (tmp_path / "out").exists()


_EIGHT = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from editr2_jax.porting import bagel_weights, rules

official, converted = sys.argv[1:]
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

def sharding(path, shape):
    inside = ".layers." in path and "vae" not in path
    spec = [None] * len(shape)
    if inside and len(shape) == 3:
        spec[1:] = ("fsdp", "tensor")
    elif len(shape) == 2 and shape[0] % 4 == 0:
        spec[0] = "tensor"
    return NamedSharding(mesh, P(*spec))

whole = rules.leaves(bagel_weights.load_folder(official, dtype="bfloat16"))
for folder in (official, converted):
    for path, leaf in rules.leaves(bagel_weights.load_folder(folder, dtype="bfloat16", sharding=sharding)).items():
        assert leaf.sharding == sharding(path, leaf.shape), path
        assert np.array_equal(leaf, whole[path]), path
wanted = jax.ShapeDtypeStruct((2, 144, 64), "bfloat16", sharding=sharding(".layers.", (2, 144, 64)))
target = {"decoder": {"layers": {"und": {"down": {"w": wanted}}}}}
arguments = ocp.args.PyTreeRestore(item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True)
with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    found = checkpointer.restore(f"{converted}/weights", args=arguments)["decoder"]["layers"]["und"]["down"]["w"]
assert np.array_equal(found, whole["decoder.layers.und.down.w"]) and len(found.addressable_shards) == 8
print("equal on eight")
"""


@pytest.mark.slow
def test_both_layouts_load_onto_a_mesh_of_eight(written, tmp_path):
    folder, _ = written
    assert port.main(["convert", f"--checkpoint={folder}", f"--out={tmp_path / 'orbax'}", "--to=orbax"]) == 0
    command = [sys.executable, "-c", _EIGHT, str(folder), str(tmp_path / "orbax")]
    done = subprocess.run(command, cwd=small_checkpoint.ROOT, capture_output=True, text=True, timeout=small_checkpoint.PATIENCE)
    assert "equal on eight" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_folder_and_the_next_one_ends(written, tmp_path):
    folder, digests = written
    arguments = ["convert", f"--checkpoint={folder}", f"--out={tmp_path / 'out'}", "--to=orbax"]
    for wait in (0.0, 0.1, 0.3):
        process = small_checkpoint.start("port", *arguments)
        while "writing" not in process.stdout.readline():
            pass
        time.sleep(wait)
        process.kill()
        process.communicate()
        assert not (tmp_path / "out").exists(), "it takes a second at least"
    assert port.main(arguments) == 0
    assert port.main(["export", f"--checkpoint={tmp_path / 'out'}", f"--out={tmp_path / 'back'}"]) == 0
    assert fake.compare(tmp_path / "back", digests) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out"]


def test_numbers_that_are_not_finite_stop_a_load_by_name(written, tmp_path):
    folder, _ = written
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = next(tmp_path.glob("ema-00002*"))
    tensors = load_file(shard)
    tensors["vae2llm.bias"][3] = np.nan
    save_file(tensors, shard)
    with pytest.raises(ValueError, match="index.json: .*1 not finite[\\s\\S]*vae2llm.bias"):
        bagel_weights.load_folder(tmp_path)
