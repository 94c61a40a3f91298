"""Shards say what the folder said: the same sessions in the same order, their pictures byte for byte."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from editr2_jax.data import check, convert, pipeline, session_source, shards
from editr2_jax.data.session_source import SessionFolder

pytest.importorskip("grain")


@pytest.fixture
def mixed(folder, new_record):
    """Seven sessions: PNG, JPEG, targets, an invalid annotation, a flag file."""
    folder.sessions(7)
    for number in range(3):
        folder.picture(f"targets/{number}.png", seed=50 + number)
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(jpeg, "JPEG", quality=80)
    (folder.path / "images/jpeg.jpg").write_bytes(jpeg.getvalue())
    empty = ["Add text '[]' on the image", "Change the color of [a] to [red]", "Change the background to [b]"]
    bad = {"formatted_instruction": empty, "task_type": ["text_change", "color_alter", "background_change"]}
    records = [new_record(number, subset=("plain", "memory")[number % 2]) for number in range(6)]
    records[2]["image"] = "images/jpeg.jpg"
    records[4]["target"] = [f"targets/{number}.png" for number in range(3)]
    folder.lines(*records, new_record(6, **bad))
    folder.lines(new_record(2), split="test")
    (folder.path / "quality_flags.jsonl").write_text('{"split": "train", "row": 1, "flags": [["added_after_first_release", 0]]}\n')
    return folder.path


def relative(folder, sessions):
    return [session_source.to_record(session, folder) for session in sessions]


@pytest.mark.parametrize("to", convert.LAYOUTS)
def test_everything_comes_back(mixed, tmp_path, to):
    out = tmp_path / "out"
    manifest = convert.to_shards(mixed, out, to=to, count=1)
    assert manifest["splits"]["train"]["sessions"] == 7 and manifest["splits"]["train"]["pictures"] == 10
    assert {"format", "version", "splits"} == set(manifest) == set(json.loads((out / "manifest.json").read_text()))
    for split, drop in (("train", True), ("train", False), ("test", False)):
        before, after = SessionFolder(mixed, split, drop_invalid=drop), SessionFolder(out, split, drop_invalid=drop)
        assert relative(mixed, before.sessions) == relative(out, after.sessions)
        assert after.flags == before.flags and set(after.invalid) == set(before.invalid)
        for session, copy in zip(before.sessions, after.sessions, strict=True):
            for path, again in zip(shards.pictures_of(session), shards.pictures_of(copy), strict=True):
                assert after.encoded(again) == Path(path).read_bytes()
                np.testing.assert_array_equal(after.read(again), before.read(path))
    assert check.check(out)["problems"] == check.check(mixed)["problems"]
    assert check.stats(out)["splits"] == check.stats(mixed)["splits"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == ["out"]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_order_is_that_of_the_folder_whatever_the_shards_and_the_hosts(mixed, tmp_path, count):
    (mixed / "test_metadata.jsonl").unlink()
    convert.to_shards(mixed, tmp_path / "out", count=count)
    told = json.loads((tmp_path / "out/manifest.json").read_text())["splits"]["train"]["shards"]
    assert len(told) == count and sum(shard["sessions"] for shard in told) == 7
    loose, sharded = (SessionFolder(path, "train", drop_invalid=False) for path in (mixed, tmp_path / "out"))
    whole = pipeline.stream(loose, seed=5, groups_per_step=4)
    parts = [pipeline.stream(sharded, seed=5, groups_per_step=4, process_index=i, process_count=2) for i in range(2)]
    for step in range(5):
        expected = [(sample.session.id, sample.picture.tobytes()) for sample in whole.at(step)]
        assert [(sample.session.id, sample.picture.tobytes()) for part in parts for sample in part.at(step)] == expected
    stream = pipeline.stream(sharded, seed=5, groups_per_step=4)
    ahead = [[sample.session.id for sample in next(stream)] for _ in range(3)]  # read by several threads
    stream.close()
    assert ahead == [[sample.session.id for sample in whole.at(step)] for step in range(3)]


def test_tfds_opens_the_folder_without_tensorflow(mixed, tmp_path):
    import tensorflow_datasets as tfds

    convert.to_shards(mixed, tmp_path / "out", to="tfds", count=1)
    builder = tfds.builder_from_directory(tmp_path / "out")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"test": 1, "train": 7}
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    source = SessionFolder(mixed, "train", drop_invalid=False)
    assert [record["id"].decode() for record in records] == [session.id for session in source.sessions]
    assert records[2]["image"] == (mixed / "images/jpeg.jpg").read_bytes()
    decoded = builder.as_data_source("train")[4]
    np.testing.assert_array_equal(decoded["image"], source.read(source.sessions[4].image))
    np.testing.assert_array_equal(decoded["targets"][2], source.read(str(mixed / "targets/2.png")))
    assert json.loads(decoded["session"])["id"] == "train/004" and "tensorflow" not in sys.modules


def test_nothing_half_written_and_nothing_overwritten(mixed, tmp_path):
    whole = (mixed / "images/005.png").read_bytes()
    (mixed / "images/005.png").write_bytes(whole[:60])
    with pytest.raises(ValueError, match=r"005\.png is damaged or incomplete"):
        convert.to_shards(mixed, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.unfinished").exists()
    (mixed / "images/005.png").write_bytes(whole)
    with pytest.raises(ValueError, match="--shards is 2, but the split test has 1 sessions; give 1 to 1"):
        convert.to_shards(mixed, tmp_path / "out", count=2)
    with pytest.raises(ValueError, match="--to is 'tfrecord'; choose one of array_record, tfds"):
        convert.to_shards(mixed, tmp_path / "out", to="tfrecord")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        convert.to_shards(mixed, mixed)


def test_shards_that_do_not_belong_together(mixed, tmp_path):
    out = tmp_path / "out"
    convert.to_shards(mixed, out)
    shard, metadata = out / shards.file_name("train", 0, 1), out / "train_metadata.jsonl"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    report = check.check(out)["splits"]["train"]["problems"]
    assert any("differs from its digest in manifest.json" in problem["message"] for problem in report)
    shard.unlink()
    with pytest.raises(ValueError, match=r"00000-of-00001 is missing, a shard of the split train; copy the whole folder again"):
        SessionFolder(out, "train")
    shard.write_bytes(sound)
    metadata.write_text(metadata.read_text().replace("red ball", "red cube"))
    with pytest.raises(ValueError, match=r"train_metadata\.jsonl: not the file that manifest\.json speaks of"):
        SessionFolder(out, "train")
    (out / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json: not a manifest that tells of the split train"):
        SessionFolder(out, "train")


def test_published_folders_in_shards_are_read_together(folder, new_record, tmp_path):
    for name in ("cm", "cu"):
        part = type(folder)(tmp_path / "loose" / name)
        part.picture(f"images/{name}.png", seed=ord(name[1]))
        part.lines(new_record(image=f"images/{name}.png"))
        convert.to_shards(part.path, tmp_path / "shards" / name)
    loose, sharded = (SessionFolder(tmp_path / kind, "train") for kind in ("loose", "shards"))
    assert relative(tmp_path / "loose", loose.sessions) == relative(tmp_path / "shards", sharded.sessions)
    for session, copy in zip(loose.sessions, sharded.sessions, strict=True):
        np.testing.assert_array_equal(loose.read(session.image), sharded.read(copy.image))
    assert check.check(tmp_path / "shards")["problems"] == 0
    with pytest.raises(ValueError, match=r"elsewhere/a\.png is no picture of .*/cm, .*/cu"):
        sharded.read(str(tmp_path / "elsewhere/a.png"))
    (tmp_path / "shards/cu" / shards.file_name("train", 0, 1)).unlink()
    (problem,) = check.check(tmp_path / "shards")["splits"]["train"]["problems"]
    assert "cu/sessions-train" in problem["file"] and "is missing" in problem["message"]


@pytest.mark.parametrize("split", ["all", "train.v1", "first half"])
def test_names_of_splits_that_tfds_cannot_open(folder, tmp_path, split):
    folder.sessions(1, split=split)
    with pytest.raises(ValueError, match=f"tfds knows no split '{split}'.*rename its metadata file"):
        convert.to_shards(folder.path, tmp_path / "out", to="tfds")
    assert not (tmp_path / "out").exists()
    convert.to_shards(folder.path, tmp_path / "out")
    assert len(SessionFolder(tmp_path / "out", split)) == 1


def upload(folder, to):
    for file in folder.rglob("*"):
        if file.is_file():
            target = epath.Path(to) / file.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


def test_a_folder_in_a_bucket_is_a_session_folder(bucket, mixed, tmp_path):
    upload(mixed, "gs://bucket/sessions")
    here, there = SessionFolder(mixed, "train"), SessionFolder("gs://bucket/sessions", "train")
    assert relative(mixed, here.sessions) == relative("gs://bucket/sessions", there.sessions)
    assert there.sessions[0].image == "gs://bucket/sessions/images/000.png"
    for (session, read), (copy, read_there) in zip([here[i] for i in range(6)], [there[i] for i in range(6)], strict=True):
        np.testing.assert_array_equal(read(session.image), read_there(copy.image))
    report = check.check("gs://bucket/sessions")
    assert report["problems"] == check.check(mixed)["problems"]
    assert check.stats("gs://bucket/sessions")["splits"] == check.stats(mixed)["splits"]
    with pytest.raises(ValueError, match="gs://bucket/nothing: does not exist"):
        SessionFolder("gs://bucket/nothing", "train")
    del bucket["/bucket/sessions/images/003.png"]
    with pytest.raises(ValueError, match=r"image gs://bucket/sessions/images/003\.png is missing"):
        SessionFolder("gs://bucket/sessions", "train")


@pytest.mark.parametrize("to", convert.LAYOUTS)
def test_shards_in_a_bucket(bucket, mixed, tmp_path, to):
    convert.to_shards(mixed, "gs://bucket/shards", to=to)
    assert "/bucket/shards/manifest.json" in bucket and not any("image" in name for name in bucket)
    there, here = SessionFolder("gs://bucket/shards", "train"), SessionFolder(mixed, "train")
    assert [session.id for session in there.sessions] == [session.id for session in here.sessions]
    assert there.encoded(there.sessions[2].image) == (mixed / "images/jpeg.jpg").read_bytes()
    with pytest.raises(ValueError, match="gs://bucket/shards: exists and is not an empty folder"):
        convert.to_shards(mixed, "gs://bucket/shards", to=to)
