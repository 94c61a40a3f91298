"""Text as token ids: Qwen2's byte-level BPE, from the files of a checkpoint folder in the official layout.

`vocab.json`, `merges.txt` and `tokenizer_config.json` are read by the `tokenizers` library alone: the same ids as transformers'
Qwen2Tokenizer gives, without the seconds that importing it takes. Nothing is ever downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

BOS, EOS, VISION_START, VISION_END = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
_PAD = "<|endoftext|>"
_SPECIAL = (_PAD, BOS, EOS, VISION_START, VISION_END)  # in the order of Qwen2.5
FILES = _VOCAB, _MERGES, _CONFIG = ("vocab.json", "merges.txt", "tokenizer_config.json")
# How Qwen2 cuts text before merging; source: transformers, models/qwen2/tokenization_qwen2.py.
_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


class Tokenizer:
    """Text to ids and back. The markers bos, eos, vision_start and vision_end are ids."""

    def __init__(self, folder: str | Path):
        """Reads a checkpoint folder. Raises ValueError naming the file that is missing, broken or lacks a marker."""
        self._folder = Path(folder)
        for name in FILES:
            if not (self._folder / name).is_file():
                raise ValueError(f"{self._folder / name} is missing; give a checkpoint folder with {', '.join(FILES)}.")
        self._tokenizer = _bpe(self._folder)
        added = _added_tokens(self._folder / _CONFIG)
        _add(self._tokenizer, added, self._folder / _CONFIG)
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos, self.eos, self.vision_start, self.vision_end = map(self._marker, (BOS, EOS, VISION_START, VISION_END))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without markers around it; a marker spelt out in the text becomes its id, as in transformers."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, markers spelt out. Ids beyond the vocabulary, which a padded embedding can draw, stand for nothing."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def segment(self, text: str, length: int, *, truncate: bool = False) -> tuple[Int[np.ndarray, "length"], int]:
        """A text between bos and eos, padded with zeros: (int32 ids [length], how many are real).

        Raises ValueError where it does not fit; with `truncate` the end of the text is cut off instead, never a marker.
        """
        ids = self.encode(text)
        if length < 2 or (len(ids) > length - 2 and not truncate):
            count = len(ids) + 2
            raise ValueError(f"{count} tokens with bos and eos do not fit into {length}: {_start(text)!r}; shorten it or allow more.")
        ids = [self.bos, *ids[: length - 2], self.eos]
        padded = np.zeros(length, np.int32)
        padded[: len(ids)] = ids
        return padded, len(ids)

    def _marker(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"{self._folder / _CONFIG}: no token {token}; take the files of a BAGEL or Qwen2.5 checkpoint.")
        return number


def train_tiny(sentences: Iterable[str], vocab_size: int, path: str | Path) -> Tokenizer:
    """Learns a small vocabulary from sentences and writes it into the folder `path` in the official layout; the same for the same input.

    vocab_size counts everything, markers included, and is reached exactly. Raises ValueError where the sentences hold too few merges for
    it, or where it leaves no room for the 256 bytes.
    """
    room = vocab_size - len(_SPECIAL)
    if room < 256:
        raise ValueError(f"vocab_size is {vocab_size}; give at least {256 + len(_SPECIAL)}: 256 bytes and {len(_SPECIAL)} markers.")
    tokenizer = _qwen2(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    learned = tokenizer.get_vocab_size()
    if learned < room:
        raise ValueError(f"The sentences hold only {learned - 256} merges; give more text, or vocab_size {learned + len(_SPECIAL)}.")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(room + index): {"content": token, **entry} for index, token in enumerate(_SPECIAL)},
        "additional_special_tokens": [BOS, EOS, VISION_START, VISION_END],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": _PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Tokenizer(folder)


def _qwen2(model: models.BPE) -> tokenizers.Tokenizer:
    """The steps of Qwen2 around a BPE model."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(folder: Path) -> tokenizers.Tokenizer:
    try:
        return _qwen2(models.BPE.from_file(str(folder / _VOCAB), str(folder / _MERGES)))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{folder}: {_VOCAB} and {_MERGES} are no byte-level BPE ({error}); copy both from one checkpoint.") from error


def _added_tokens(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """(id, entry) of the tokens that vocab.json does not hold, in the order of their ids."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        found = sorted((int(number), dict(entry)) for number, entry in entries.items())
        if not all(isinstance(entry.get("content"), str) for _, entry in found):
            raise ValueError("an entry has no content")
        return found
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: added_tokens_decoder is broken ({error}); take the file of a BAGEL or Qwen2.5 checkpoint.") from error


def _add(tokenizer: tokenizers.Tokenizer, added: Sequence[tuple[int, dict[str, Any]]], file: Path) -> None:
    for number, entry in added:
        flags = {name: bool(entry.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        token = AddedToken(entry["content"], **flags)
        (tokenizer.add_special_tokens if flags["special"] else tokenizer.add_tokens)([token])
        given = tokenizer.token_to_id(entry["content"])
        if given != number:  # ids count on from vocab.json: a gap means that the two files do not belong together
            content = entry["content"]
            raise ValueError(f"{file}: {content} has id {number}, but {_VOCAB} leaves {given} for it; copy both from one checkpoint.")


def _start(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
