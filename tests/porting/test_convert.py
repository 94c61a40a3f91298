"""Whole folders in and out: nothing lost, nothing half-written, nothing overwritten."""

import shutil

import bagel_cases as golden
import jax
import ml_dtypes
import numpy as np
import pytest
from elsewhere import Elsewhere
from flax import nnx
from safetensors.numpy import load_file, save_file

from editr2_jax import assemble, presets
from editr2_jax.cli import port
from editr2_jax.models import lora
from editr2_jax.models.bagel import config
from editr2_jax.porting import bagel_weights, convert, export, fake, model_card, rules

pytestmark = pytest.mark.golden

EMA, AE = (load_file(golden.FOLDER / f"{name}.safetensors") for name in ("ema", "ae"))


def _convert(source, out, *more: str) -> int:
    return port.main(["convert", f"--checkpoint={source}", f"--out={out}", *more])


def test_a_converted_checkpoint_is_the_same_and_the_account_says_so(tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(golden.FOLDER, source)
    (source / "vocab.json").write_text("{}")
    assert _convert(source, tmp_path / "out") == 0
    assert config.BagelConfig.from_folder(tmp_path / "out") == config.tiny()
    for name, theirs in (("ema", EMA), ("ae", AE)):
        ours = load_file(tmp_path / "out" / f"{name}.safetensors")
        assert set(ours) == set(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    parameters = sum(tensor.size for tensor in (*EMA.values(), *AE.values()))
    assert f"{len(EMA) + len(AE)} tensors, {parameters:,} parameters" in capsys.readouterr().out
    assert (tmp_path / "out" / "vocab.json").read_text() == "{}"


def test_bfloat16_spares_the_autoencoder(tmp_path):
    assert _convert(golden.FOLDER, tmp_path / "out", "--dtype=bfloat16") == 0
    ema, ae = (load_file(tmp_path / "out" / f"{name}.safetensors") for name in ("ema", "ae"))
    assert all(np.array_equal(ema[key], EMA[key].astype(ml_dtypes.bfloat16)) for key in EMA)
    assert all(np.array_equal(ae[key], AE[key]) for key in AE)
    with pytest.raises(ValueError, match="float16.*choose one of bfloat16, float32"):
        _convert(golden.FOLDER, tmp_path / "half", "--dtype=float16")


def test_a_checkpoint_with_something_wrong_leaves_nothing_behind(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(golden.FOLDER, source)
    changed = dict(EMA)
    del changed["vae2llm.bias"]
    save_file(changed | {"stray.weight": np.zeros(3, np.float32)}, source / "ema.safetensors")
    with pytest.raises(rules.WeightsError) as caught:
        _convert(source, tmp_path / "out")
    assert "unused: stray.weight" in str(caught.value) and "unfilled: vae2llm.bias" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="out: exists and is not an empty folder"):
        _convert(golden.FOLDER, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_interrupted_writer_leaves_nothing_and_the_next_one_cleans_up(tmp_path):
    with pytest.raises(KeyboardInterrupt), convert.whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "out.unfinished").mkdir()  # of a process that was killed
    (tmp_path / "out.unfinished" / "half").write_text("")
    with convert.whole_folder(tmp_path / "out") as folder:
        (folder / "all").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "all"]


def test_a_model_is_exported_whole_or_as_its_adapter(tmp_path):
    model = nnx.clone(golden.model())
    lora.attach(model, lora.LoraConfig(rank=2, alpha=2.0), key=jax.random.key(0))
    whole = convert.export_model(model, tmp_path / "whole")
    assert (whole.keys, set(load_file(tmp_path / "whole" / "ema.safetensors"))) == (len(EMA) + len(AE), set(EMA))
    adapter = convert.export_model(model, tmp_path / "adapter", adapter=True)
    assert adapter.keys == 2 * 2 * 7 * 2  # two matrices, two experts, seven projections, two layers
    written = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert written == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    with pytest.raises(ValueError, match="no adapter"):
        convert.export_model(golden.model(), tmp_path / "none", adapter=True)
    assert not (tmp_path / "none").exists()


def test_shards_are_written_with_their_index(tmp_path):
    assert _convert(golden.FOLDER, tmp_path / "out", "--shards=3") == 0
    assert len(list((tmp_path / "out").glob("ema-*.safetensors"))) == 3
    ours, _ = bagel_weights.open_folder(tmp_path / "out")
    assert set(ours) == set(EMA) and all(np.array_equal(ours[key], EMA[key]) for key in EMA)
    with pytest.raises(ValueError, match="--shards is 2; it is for --to=official"):
        _convert(golden.FOLDER, tmp_path / "more", "--shards=2", "--to=orbax")


def test_without_a_type_every_bit_stays(tmp_path):
    """A file of mixed types, with zeros that have a sign; the autoencoder too."""
    source = tmp_path / "source"
    shutil.copytree(golden.FOLDER, source)
    mixed = {key: tensor if key.endswith("pos_embed") else tensor.astype(ml_dtypes.bfloat16) for key, tensor in EMA.items()}
    mixed["vae2llm.bias"] = np.full_like(mixed["vae2llm.bias"], -0.0)
    save_file(mixed, source / "ema.safetensors")
    save_file({key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in AE.items()}, source / "ae.safetensors")
    assert _convert(source, tmp_path / "ours", "--to=orbax") == 0
    for name, start in (("back", tmp_path / "ours"), ("copy", source)):
        assert _convert(start, tmp_path / name) == 0
        assert not fake.compare(tmp_path / name, fake.digests_of(source))


def test_folders_elsewhere_are_read_and_written_and_open_only_when_whole(tmp_path, monkeypatch):
    source, out = Elsewhere(golden.FOLDER), Elsewhere(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_leaves", lambda *_, **__: (_ for _ in ()).throw(OSError("the line is down")))
        with pytest.raises(OSError, match="the line is down"):
            convert.convert(source, out)
    assert not out.exists()
    convert.convert(source, out)
    assert not fake.compare(out, fake.digests_of(golden.FOLDER))
    assert bagel_weights.read_config(out) == config.tiny()
    with pytest.raises(ValueError, match="gs://bucket: exists and is not an empty folder"):
        convert.convert(source, out)
    (tmp_path / "out" / "llm_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="gs://bucket/llm_config.json: no such file"):
        bagel_weights.opened(out)


def test_a_bucket_is_a_folder(bucket, tmp_path):
    assert _convert(golden.FOLDER, "gs://bucket/one", "--shards=2") == 0
    written = sorted(name.removeprefix("/bucket/one/") for name in bucket if "ema" in name)
    assert written == ["ema-00001-of-00002.safetensors", "ema-00002-of-00002.safetensors", "ema.safetensors.index.json"]
    assert fake.compare("gs://bucket/one", fake.digests_of(golden.FOLDER)) == []
    assert _convert("gs://bucket/one", tmp_path / "here", "--to=orbax") == 0
    assert np.array_equal(bagel_weights.load_folder(tmp_path / "here").decoder.embed[...], EMA["language_model.model.embed_tokens.weight"])
    with pytest.raises(ValueError, match="gs://bucket/one: exists and is not an empty folder"):
        _convert(golden.FOLDER, "gs://bucket/one")


def test_training_reads_a_checkpoint_where_it_lies(bucket, small_checkpoint):
    from etils import epath

    config = presets.tabletop(presets.edit_r2())
    config.model.checkpoint = "gs://bucket/base"
    with pytest.raises(ValueError, match="gs://bucket/base holds no llm_config.json"):
        assemble.model(config)
    (epath.Path("gs://bucket") / "base").mkdir()
    for file in small_checkpoint.iterdir():
        (epath.Path("gs://bucket/base") / file.name).write_bytes(file.read_bytes())
    told = []
    there = assemble.model(config, say=told.append)
    config.model.checkpoint = str(small_checkpoint)
    here = assemble.model(config)
    assert there.config == here.config == assemble.sizes_of(config) and there.tokenizer.encode("Remove ball") == here.tokenizer.encode(
        "Remove ball"
    )
    jax.tree.map(np.testing.assert_array_equal, there.frozen, here.frozen)
    assert "100%" in told[-1]
    (epath.Path("gs://bucket/base") / "merges.txt").unlink()
    config.model.checkpoint = "gs://bucket/base"
    with pytest.raises(ValueError, match="^gs://bucket/base/merges.txt is missing"):
        assemble.model(config)


def test_the_card_tells_what_it_was_given_and_no_more(tmp_path):
    model = nnx.clone(golden.model())
    lora.attach(model, lora.LoraConfig(rank=2, alpha=3.0, experts=("gen",)), key=jax.random.key(0))
    card = model_card.Card(base="a/base", method="Trained by a method.", settings={"lora.rank": 2}, metrics={"reward/mean": 0.51234567})
    convert.export_model(model, tmp_path / "adapter", adapter=True, card=card)
    text = (tmp_path / "adapter" / "README.md").read_text()
    given = ("base_model: a/base", "Trained by a method.", "| lora.rank | 2 |", "| reward/mean | 0.512346 |")
    assert all(told in text for told in (*given, "rank 2, alpha 3", "`gen.down`"))
    convert.export_model(model, tmp_path / "whole")
    text = (tmp_path / "whole" / "README.md").read_text()
    assert "2 layers of width 64" in text and "Measured" not in text and "Settings" not in text and "base_model" not in text


def test_export_wants_one_source(tmp_path):
    with pytest.raises(ValueError, match="either --workdir=DIR"):
        port.main(["export", f"--out={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match="has no adapter"):
        port.main(["export", f"--checkpoint={golden.FOLDER}", f"--out={tmp_path / 'out'}", "--adapter"])
