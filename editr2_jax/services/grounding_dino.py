"""Grounding DINO, through transformers in PyTorch, as the rewards' detector.

The prompt is the phrases, lower-cased and without dots, joined by " . " and ended by " ."; a box (query) scores every token of it, and

    score[query, phrase] = max over the tokens of the phrase of sigmoid(logit[query, token])

A box answers each phrase that it scores above the threshold, and no other text: separators and markers belong to no phrase, and words of
two phrases are never merged into a third. For one phrase this is the published rule (box threshold = text threshold), but for boxes that
only a separator brings above it. Source: Grounding DINO (arXiv 2303.05499), its inference code, and transformers' processor.
Letters: Q queries, L tokens, P phrases.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from editr2_jax.rewards.base import Detection, ServiceError
from editr2_jax.services import torch_models

Span = tuple[int, int]  # first token and the one after the last


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Phrases that are asked in one pass, and the tokens of each."""

    text: str
    phrases: tuple[str, ...]  # cleaned
    spans: tuple[Span, ...]


class GroundingDino:
    """Finds phrases in pictures; the same question gets the same answer. Thread-safe: one pass at a time."""

    def __init__(self, folder: str | Path, *, device: str = "cpu", threshold: float = 0.25):
        """
        Args:
            folder: config.json, preprocessor_config.json, tokenizer files and safetensors, as Hugging Face publishes them.
            device: as PyTorch names it: cpu, cuda, cuda:1.
            threshold: boxes must score more; rewards filter again, the mildest of them at 0.25.
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"GroundingDino: threshold is {threshold}; give a number of at least 0 and below 1.")
        self._torch, transformers = torch_models.libraries()
        self._model = torch_models.load("GroundingDinoForObjectDetection", folder, model_type="grounding-dino", device=device)
        folder = Path(folder).expanduser()
        try:  # Pillow, as in the original code, whatever else is installed: its pixels and torchvision's differ
            self._processor = transformers.GroundingDinoImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: transformers cannot read the preprocessor or the tokenizer ({error}).") from error
        if not self._tokenizer.is_fast:
            raise ValueError(f"{folder}: the tokenizer does not tell where tokens stand in the text; copy tokenizer.json as well.")
        self._threshold = threshold
        self._lock = threading.Lock()  # the tokenizer, too, serves one thread at a time

    def detect(self, picture: np.ndarray, phrases: Sequence[str]) -> list[Detection]:
        """All instances of all phrases in a uint8 [H, W, 3] picture, in the network's order of boxes; phrases come back as asked.

        Raises ValueError for a phrase without words, or one too long for the model; ServiceError where the model gives no numbers.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"GroundingDino wants a uint8 picture [height, width, 3], got {picture.dtype}{list(picture.shape)}.")
        if isinstance(phrases, str):
            raise ValueError(f"GroundingDino wants a sequence of phrases; for one pass ({phrases!r},).")
        asked: dict[str, list[str]] = {}  # cleaned -> as asked, which may be several
        for phrase in dict.fromkeys(phrases):
            asked.setdefault(clean(phrase), []).append(phrase)
        found = []
        for prompt, score, boxes in self._passes(picture, list(asked)):
            for query, place in zip(*np.nonzero(score > self._threshold), strict=True):
                box, value = corners(boxes[query]), float(score[query, place])
                found += [Detection(box=box, score=value, phrase=phrase) for phrase in asked[prompt.phrases[place]]]
        return found

    def _passes(self, picture: np.ndarray, phrases: Sequence[str]):
        """Prompt, score [Q, P] and boxes [Q, 4] of every pass; most often there is one."""
        if not phrases:
            return
        pixels = self._processor(images=picture, input_data_format="channels_last", return_tensors="pt")
        pixels = {name: pixels[name].to(self._model.device) for name in ("pixel_values", "pixel_mask")}
        for prompt in self.prompts(phrases):
            with self._lock, self._torch.inference_mode():
                text = self._tokenizer(prompt.text, return_tensors="pt", return_token_type_ids=True).to(self._model.device)
                out = self._model(**pixels, **text)
                logits, boxes = (array[0].float().cpu().numpy() for array in (out.logits, out.pred_boxes))
            yield prompt, phrase_scores(logits, prompt.spans), boxes

    def prompts(self, phrases: Sequence[str]) -> list[Prompt]:
        """Cleaned phrases in as few prompts as the model's text length allows, in order."""
        limit, found = self._model.config.max_text_len, []
        rest = list(phrases)
        while rest:
            count = len(rest)
            while (prompt := self._prompt(rest[:count])) is None:
                count -= 1
                if not count:
                    raise ValueError(f"GroundingDino: {rest[0][:60]!r}... has more tokens than the model's {limit}; shorten the phrase.")
            found.append(prompt)
            rest = rest[count:]
        return found

    def _prompt(self, phrases: Sequence[str]) -> Prompt | None:
        """The prompt of these phrases; None where it is too long."""
        text, places = joined(phrases)
        with self._lock:
            told = self._tokenizer(text, return_offsets_mapping=True)
        if len(told["input_ids"]) > self._model.config.max_text_len:
            return None
        return Prompt(text=text, phrases=tuple(phrases), spans=token_spans(told["offset_mapping"], places))


def clean(phrase: str) -> str:
    """A phrase as the model was trained to read it: lower case, no dots, single spaces. Raises ValueError where nothing is left."""
    words = " ".join(phrase.lower().replace(".", "").split())
    if not words:
        raise ValueError(f"GroundingDino cannot look for {phrase!r}: a phrase needs a word.")
    return words


def joined(phrases: Sequence[str]) -> tuple[str, list[Span]]:
    """The prompt of cleaned phrases, and where in it each stands: first character and the one after the last."""
    places, begin = [], 0
    for phrase in phrases:
        places.append((begin, begin + len(phrase)))
        begin += len(phrase) + len(" . ")
    return " . ".join(phrases) + " .", places


def token_spans(offsets: Sequence[Span], places: Sequence[Span]) -> tuple[Span, ...]:
    """The tokens that stand within each place of the text. offsets: characters of every token, (0, 0) for a marker.

    Raises ValueError for a place without a token.
    """
    spans = []
    for begin, end in places:
        inside = [token for token, (first, past) in enumerate(offsets) if first < past and begin <= first and past <= end]
        if not inside:
            raise ValueError(
                f"GroundingDino: the tokenizer sees nothing in characters {begin} to {end} of the prompt; name the object in words."
            )
        spans.append((inside[0], inside[-1] + 1))
    return tuple(spans)


def phrase_scores(logits: Float[np.ndarray, "Q L"], spans: Sequence[Span]) -> Float[np.ndarray, "Q P"]:
    """Sigmoid of the highest logit within each phrase's tokens, in [0, 1]. Raises ServiceError for a logit that is no number."""
    best = np.stack([logits[:, begin:end].max(axis=1) for begin, end in spans], axis=1).astype(np.float64)
    if np.isnan(best).any():
        raise ServiceError("GroundingDino: the model gave scores that are no numbers; its weights or the device are at fault.")
    with np.errstate(over="ignore"):  # exp(large) is inf, and the score 0
        return 1 / (1 + np.exp(-best))


def corners(box: Float[np.ndarray, "4"]) -> tuple[float, float, float, float]:
    """(centre x, centre y, width, height) to (x1, y1, x2, y2), cut at the picture's edges; fractions both.

    Raises ServiceError for a number that is none.
    """
    if not np.isfinite(box).all():
        raise ServiceError("GroundingDino: the model gave a box that is no numbers; its weights or the device are at fault.")
    x, y, width, height = (float(number) for number in box)
    return tuple(min(max(edge, 0.0), 1.0) for edge in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
