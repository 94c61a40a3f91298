import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.data import tokenizer as tokenizers

SENTENCES = [
    f"{verb} the {colour} {kind} on the {side} of the {other} with '{letter}', it's {number}."
    for verb, colour, kind, side, other, letter, number in zip(
        ["Add", "Remove", "Move"] * 8, ["red", "blue", "green", "teal"] * 6, ["ball", "box", "star"] * 8, ["left", "right"] * 12,
        ["cone", "ring", "cross", "sign"] * 6, "ABCDEFGHIJKLMNOPQRSTUVWX", range(24), strict=True,
    )
]  # fmt: skip
ODD = ["", "  a\n\n b", "Ünïcode e\u0301 日本 🙂", "it's <|im_start|>x<|im_end|> y", "<|vision_start|> \t<|endoftext|>", "123 4567", "a\0b"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train_tiny(SENTENCES, 300, folder)
    return folder, tokenizers.Tokenizer(folder)


def test_the_markers_are_the_last_ids(tiny):
    _, tokenizer = tiny
    assert tokenizer.vocab_size == 300
    assert (tokenizer.bos, tokenizer.eos, tokenizer.vision_start, tokenizer.vision_end) == (296, 297, 298, 299)
    assert tokenizer.encode("<|im_start|>") == [296] and tokenizer.decode([296, 298]) == "<|im_start|><|vision_start|>"


@given(text=st.text(max_size=40))
def test_text_survives(tiny, text):
    import unicodedata

    ids = tiny[1].encode(text)
    assert tiny[1].decode(ids) == unicodedata.normalize("NFC", text) and all(0 <= i < 300 for i in ids)


def test_merges_were_learned(tiny):
    text = SENTENCES[0]
    assert len(tiny[1].encode(text)) < len(text) * 0.8


def test_ids_beyond_the_vocabulary_stand_for_nothing(tiny):
    _, tokenizer = tiny
    assert tokenizer.decode(np.array([5000, *tokenizer.encode("ball"), 100000])) == "ball"


def test_segment(tiny):
    _, tokenizer = tiny
    ids, count = tokenizer.segment("red ball", 20)
    assert ids.dtype == np.int32 and ids.shape == (20,)
    assert ids[:count].tolist() == [tokenizer.bos, *tokenizer.encode("red ball"), tokenizer.eos] and not ids[count:].any()
    exact, full = tokenizer.segment("red ball", count)
    assert full == count and exact.tolist() == ids[:count].tolist()
    with pytest.raises(ValueError, match=rf"{count} tokens with bos and eos do not fit into {count - 1}: 'red ball'"):
        tokenizer.segment("red ball", count - 1)
    short, cut = tokenizer.segment("red ball", 3, truncate=True)
    assert cut == 3 and short.tolist() == [tokenizer.bos, tokenizer.encode("red ball")[0], tokenizer.eos]


def test_training_twice_gives_the_same_files(tiny, tmp_path):
    tokenizers.train_tiny(SENTENCES, 300, tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (tiny[0] / name).read_bytes()


def test_vocabularies_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="give at least 261"):
        tokenizers.train_tiny(SENTENCES, 260, tmp_path)
    with pytest.raises(ValueError, match="hold only .* merges; give more text, or vocab_size"):
        tokenizers.train_tiny(["a b"], 300, tmp_path)


@pytest.mark.slow
def test_transformers_reads_the_same_files_and_gives_the_same_ids(tiny):
    transformers = pytest.importorskip("transformers")
    folder, ours = tiny
    for theirs in (
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True),
        transformers.Qwen2TokenizerFast.from_pretrained(folder, local_files_only=True),
    ):
        for text in [*SENTENCES, *ODD]:
            assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text
            assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
        assert len(theirs) == ours.vocab_size and theirs.eos_token_id == ours.eos
        assert theirs.convert_tokens_to_ids("<|vision_end|>") == ours.vision_end


def broken(tiny, tmp_path, name, text):
    for file in tiny[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("merges.txt", None, r"merges\.txt is missing; give a checkpoint folder with vocab\.json"),
        ("vocab.json", "{", r"vocab\.json and merges\.txt are no byte-level BPE"),
        ("merges.txt", "#version: 0.2\nzz qq\n", r"vocab\.json and merges\.txt are no byte-level BPE"),
        ("tokenizer_config.json", "{", "added_tokens_decoder is broken"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"295": {}}}', "an entry has no content"),
        ("tokenizer_config.json", "{}", r"no token <\|im_start\|>; take the files of a BAGEL"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"400": {"content": "<|a|>"}}}', r"has id 400, but vocab\.json leaves 295"),
    ],
)
def test_broken_files_are_named(tiny, tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        tokenizers.Tokenizer(broken(tiny, tmp_path, name, text))


def test_the_layout_is_the_official_one(tiny):
    config = json.loads((tiny[0] / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "Qwen2Tokenizer" and config["added_tokens_decoder"]["296"]["content"] == "<|im_start|>"
    assert (tiny[0] / "merges.txt").read_text().startswith("#version: 0.2\n")
