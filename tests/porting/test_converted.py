"""Our own layout: the numbers of the official one, restored by orbax itself and by us, onto whatever is there; damaged ones refused."""

import json
import shutil

import bagel_cases as golden
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from editr2_jax.models.bagel import bagel, config
from editr2_jax.porting import bagel_weights, convert, converted, leaves, rules

pytestmark = pytest.mark.golden

EMA, AE = (load_file(golden.FOLDER / f"{name}.safetensors") for name in ("ema", "ae"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The recorded checkpoint, converted; nobody changes it."""
    folder = tmp_path_factory.mktemp("converted") / "folder"
    lines = []
    account = convert.convert(golden.FOLDER, folder, to="orbax", say=lines.append)
    assert account.keys == len(EMA) + len(AE)
    assert account.parameters == sum(tensor.size for tensor in (*EMA.values(), *AE.values()))
    assert "100%" in lines[-1] and "GB/s" in lines[-1] and "eta 0s" in lines[-1]
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def placed(path, shape):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x" if ".layers." in path else None))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_loads_as_the_official_folder_does(made, dtype):
    lines = []
    ours = bagel_weights.load_folder(made, dtype=dtype, sharding=placed, say=lines.append)
    official = bagel_weights.load_folder(golden.FOLDER, dtype=dtype)
    for path, leaf in rules.leaves(official).items():
        found = rules.leaves(ours)[path]
        assert found.dtype == leaf.dtype and np.array_equal(found, leaf), path
    assert ours.decoder.layers.und.q.w[...].sharding == placed("decoder.layers.und.q.w", (2, 64, 64))
    assert "100%" in lines[-1]


def test_orbax_restores_it_by_itself(made):
    wanted = jax.ShapeDtypeStruct((2, 64, 64), jnp.float32, sharding=placed("decoder.layers.", ()))
    target = {"decoder": {"layers": {"gen": {"q": {"w": wanted}}}}}
    arguments = ocp.args.PyTreeRestore(item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(made / converted.WEIGHTS, args=arguments)["decoder"]["layers"]["gen"]["q"]["w"]
    assert found.sharding == wanted.sharding
    key = "language_model.model.layers.{}.self_attn.q_proj_moe_gen.weight"
    np.testing.assert_array_equal(found, np.stack([EMA[key.format(layer)].T for layer in range(2)]))


def test_a_layer_is_a_chunk(made):
    leaf = converted.opened(made)["decoder.layers.und.up.w"]
    assert leaf._store.chunk_layout.write_chunk.shape == (1, 64, 144)
    (block,) = leaf.blocks([(slice(1, 2), slice(3, 9), slice(0, 4))])
    np.testing.assert_array_equal(block[0], EMA["language_model.model.layers.1.mlp.up_proj.weight"].T[3:9, :4])


def test_one_leaf_at_most_is_in_memory(tmp_path):
    events = []

    class Watched:
        stacked, shape, dtype = True, (4, 64, 8), np.dtype(np.float32)

        def __init__(self, name):
            self.name = name

        def blocks(self, indices):
            events.append((self.name, [index[0] for index in indices]))
            return [np.zeros([part.stop - part.start for part in index], np.float32) for index in indices]

    done = lambda name, size: events.append((name, size))  # noqa: E731
    converted.write(tmp_path, {name: Watched(name) for name in ("a", "b", "c")}, done=done)
    names = [name for name, _ in events]
    assert names == sorted(names) and len(names) == 6, "each is read, written and told of before the next is read"


def test_a_folder_without_its_mark_is_none(copy):
    (copy / converted.MARK).unlink()
    with pytest.raises(FileNotFoundError, match="no weights here; looked for ema.safetensors"):
        bagel_weights.load_folder(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mark: mark | {"format": 99}, "format 99, this version reads 1"),
        (lambda mark: mark | {"parameters": mark["parameters"] | {"stray.w": "float32"}}, "parameter stray.w cannot be read"),
        (lambda mark: {}, "not a converted checkpoint"),
    ],
)
def test_a_mark_that_lies_is_refused(copy, change, message):
    path = copy / converted.MARK
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        bagel_weights.load_folder(copy)


def test_another_configuration_is_refused_by_parameter(copy):
    fields = json.loads((copy / "llm_config.json").read_text())
    (copy / "llm_config.json").write_text(json.dumps(fields | {"intermediate_size": 100}))
    misshapen = r"6 misshapen[\s\S]*decoder.layers.gen.down.w \(file \(2, 144, 64\), model \(2, 100, 64\)\)"
    with pytest.raises(rules.WeightsError, match=misshapen):
        bagel_weights.load_folder(copy)
    mark = json.loads((copy / converted.MARK).read_text())
    del mark["parameters"]["decoder.embed"]
    (copy / converted.MARK).write_text(json.dumps(mark))
    with pytest.raises(rules.WeightsError, match="1 unfilled"):
        bagel_weights.opened(copy)


def test_lost_bytes_are_told_by_parameter(copy):
    for path in (copy / converted.WEIGHTS / "ocdbt.process_0" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="weights: parameter .* cannot be read"):
        bagel_weights.load_folder(copy)


def test_numbers_that_are_not_finite_leave_nothing_behind(tmp_path):
    source = shutil.copytree(golden.FOLDER, tmp_path / "source")
    changed = EMA["connector.fc1.weight"].copy()
    changed[0, :2] = np.nan, np.inf
    save_file(EMA | {"connector.fc1.weight": changed}, source / "ema.safetensors")
    with pytest.raises(rules.WeightsError, match=r"ema.safetensors: .*\n.*not finite: connector.fc1.weight \(2 numbers\)"):
        convert.convert(source, tmp_path / "out", to="orbax")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_model_of_other_places_is_filled_leaf_by_leaf():
    tensors, _ = bagel_weights.open_folder(golden.FOLDER)
    seen = []
    places = rules.plan(rules.leaves(bagel.abstract(config.tiny()), without=("vae",)), bagel_weights.RULES)
    arrays = rules.read(places, tensors, sharding=placed, done=lambda path, size: seen.append((path, size)))
    assert seen == [(path, array.nbytes) for path, array in arrays.items()]
    assert isinstance(leaves.of_device(converted_leaf(tensors), placed("", (320, 64)), jax.devices()[0]), jax.Array)


def converted_leaf(tensors):
    key = "language_model.model.embed_tokens.weight"
    return leaves.Turned([key], tensors, (320, 64), np.float32, axes=None, stacked=False, unsound=leaves.Unsound())
