"""A vision-language model behind an OpenAI-compatible server (vLLM, SGLang, a hosted one) as the rewards' question answerer.

One question is one chat message: the pictures in order, lossless PNG, then the prompt. The answer's text goes back as it came: whether it
can be read is for the rewards to say (JudgeFormatError). Without an answer there is a ServiceError. What a question costs is checked before
it is sent, so that a server that would refuse it, or cut it off in silence, never sees it.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from editr2_jax.rewards import questions
from editr2_jax.rewards.base import ServiceError
from editr2_jax.rewards.questions import JudgeFormatError, Question
from editr2_jax.services import answer_cache
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.client import Client
from editr2_jax.services.endpoints import Endpoints, WrongServer

CHOICES = {  # how a server is told to answer with one of a few words
    "": lambda words: {},
    "structured_outputs": lambda words: {"structured_outputs": {"choice": words}},  # vLLM since 0.11
    "guided_choice": lambda words: {"guided_choice": words},  # older vLLM
    "regex": lambda words: {"regex": f"({'|'.join(words)})"},  # SGLang
}
_TOP = 20  # most likely first tokens that are told; the most that vLLM and the OpenAI protocol allow
_DECIDED = 0.5  # probability that must lie on yes and no together
_PATH = "/chat/completions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """The model and how it is asked. All of it may change an answer."""

    model: str = ""  # as the server names it
    temperature: float = 0.0  # votes differ only above 0; their number seeds the sampling
    max_tokens: int = 512
    long_side: int = 1024  # pixels; larger pictures are made smaller, aspect kept; 0: as they are
    max_pictures: int = 8  # of one question; vLLM: --limit-mm-per-prompt
    context_tokens: int = 16384  # that prompt and answer may take; vLLM: --max-model-len, SGLang: --context-length
    pixels_per_token: int = 784  # 28 x 28: Qwen2-VL and Qwen2.5-VL
    json_schema: bool = False  # send response_format with the schema of a JSON answer
    choices: str = ""  # how yes and no are made the only answers: a name in CHOICES; empty: by the prompt alone

    def __post_init__(self):
        if not self.model:
            raise ValueError("VlmConfig.model is empty; give the name under which the server offers its model (see URL/models).")
        if self.choices not in CHOICES:
            known = ", ".join(repr(name) for name in CHOICES)
            raise ValueError(f"VlmConfig.choices is {self.choices!r}; choose from {known}, by what the server understands.")
        for name in ("max_tokens", "max_pictures", "context_tokens", "pixels_per_token"):
            if getattr(self, name) < 1:
                raise ValueError(f"VlmConfig.{name} is {getattr(self, name)}; give at least 1.")
        if not self.temperature >= 0 or self.long_side < 0:
            raise ValueError(f"VlmConfig: temperature={self.temperature}, long_side={self.long_side}; neither may be below 0.")


class VlmAnswerer(Client):
    """Asks the model, or the cache."""

    def __init__(self, config: VlmConfig, endpoints: Endpoints, *, cache: AnswerCache | None = None):
        super().__init__(endpoints, cache)
        self._config = config

    def ask(self, pictures: Sequence[np.ndarray], question: Question) -> str:
        """The answer's raw text. Raises ServiceError, saying why, when there is none."""
        return self._answer(pictures, question, self._settings(question, soft=False), _text_of)

    def yes_probability(self, pictures: Sequence[np.ndarray], question: Question) -> float:
        """P(yes) / (P(yes) + P(no)) of the answer's first token, in [0, 1], whatever its spelling.

        Raises JudgeFormatError where the model would rather say something else, ServiceError where the server tells no probabilities.
        """
        told = json.loads(self._answer(pictures, question, self._settings(question, soft=True), _first_token_of))
        mass = {word: sum(math.exp(log) for token, log in told if token.strip().lower() == word) for word in ("yes", "no")}
        if sum(mass.values()) < _DECIDED:
            raise JudgeFormatError(f"Yes and no have a probability of {sum(mass.values()):.2f} together; the likeliest: {told[0][0]!r}.")
        return mass["yes"] / (mass["yes"] + mass["no"])

    def request_key(self, pictures: Sequence[np.ndarray], question: Question, *, soft: bool = False) -> str:
        """What the answer is found by in the cache; soft: that of `yes_probability`, else of `ask`. Nothing is asked."""
        about = self._about(question, self._request(question, self._settings(question, soft=soft)))
        return answer_cache.key_of(about, [self._shown(picture) for picture in pictures])

    def _settings(self, question: Question, *, soft: bool) -> dict[str, Any]:
        """What a request holds beside model, sampling and words."""
        if soft:
            return {"logprobs": True, "top_logprobs": _TOP, "max_tokens": 1}
        if question.kind in questions.YES_NO:
            return CHOICES[self._config.choices](["yes", "no"])
        return self._schema(question)

    def _request(self, question: Question, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self._config.model,
            "temperature": self._config.temperature,
            "seed": question.vote,
            "max_tokens": self._config.max_tokens,
            **settings,
        }

    def _about(self, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        return {**request, "kind": question.kind, "prompt": question.text(), "prompt_version": questions.PROMPT_VERSION}

    def _answer(self, pictures: Sequence[np.ndarray], question: Question, settings: Mapping[str, Any], read: Callable[[Any], str]) -> str:
        prompt, shown = question.text(), [self._shown(picture) for picture in pictures]
        request = self._request(question, settings)
        about = self._about(question, request)
        key = answer_cache.key_of(about, shown)
        known = self._kept(key, f"{question.kind!r}, vote {question.vote}: {prompt[:120]!r}")
        if known is not None:
            return known
        self._refuse_large(shown, prompt, question)
        content = [
            *({"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in shown),
            {"type": "text", "text": prompt},
        ]
        body = {**request, "messages": [{"role": "user", "content": content}]}
        answer = self._endpoints.post(_PATH, body, key=key, read=read)
        return answer if self._cache is None else self._cache.put(key, answer, about=about)

    def _shown(self, picture: np.ndarray) -> np.ndarray:
        """The pixels that the model is shown."""
        height, width = picture.shape[:2]
        scale = self._config.long_side / max(height, width)
        if self._config.long_side == 0 or scale >= 1:
            return picture
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))

    def _refuse_large(self, pictures: Sequence[np.ndarray], prompt: str, question: Question) -> None:
        config = self._config
        if len(pictures) > config.max_pictures:
            raise ServiceError(
                f"A {question.kind!r} question shows {len(pictures)} pictures, max_pictures is {config.max_pictures}; "
                "raise the server's limit and max_pictures, or play fewer turns."
            )
        seen = sum(math.ceil(picture.shape[0] * picture.shape[1] / config.pixels_per_token) for picture in pictures)
        tokens = seen + len(prompt.encode()) // 2 + config.max_tokens  # a token is hardly shorter than two bytes
        if tokens > config.context_tokens:
            raise ServiceError(
                f"A {question.kind!r} question may take {tokens} tokens ({seen} of them pictures), context_tokens is "
                f"{config.context_tokens}; lower long_side, or raise the server's context and context_tokens."
            )

    def _schema(self, question: Question) -> dict[str, Any]:
        schema = questions.answer_schema(question)
        if not self._config.json_schema or schema is None:
            return {}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": question.kind, "schema": schema, "strict": True}}}


def _data_url(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)  # lossless at every level; this one is fast
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _choice_of(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices in it")
    return choices[0]


def _text_of(answer: Any) -> str:
    """The text of a chat completion. Raises ValueError where there is none."""
    message = _choice_of(answer).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise ValueError("no choices[0].message.content that is text")
    return content.encode(
        errors="replace"
    ).decode()  # half a character, as servers that cut by UTF-16 may send, can be neither kept nor shown


def _first_token_of(answer: Any) -> str:
    """The likeliest first tokens and their log-probabilities, as JSON [[token, log-probability], ...].

    Raises WrongServer where a whole answer has none, ValueError for one that cannot be read.
    """
    choice = _choice_of(answer)
    if choice.get("logprobs") is None:
        raise WrongServer("this server tells no probabilities (choices[0].logprobs); set soft=False.")
    try:
        tops = choice["logprobs"]["content"][0]["top_logprobs"]
        told = [[str(top["token"]), float(top["logprob"])] for top in tops]
    except (KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(
            "no choices[0].logprobs.content[0].top_logprobs; this server may tell them in another way: set soft=False"
        ) from error
    if not told or not all(log <= 1e-3 for _, log in told):
        raise ValueError(f"log-probabilities that are none: {told[:3]}")
    return json.dumps(sorted(told, key=lambda pair: -pair[1]))
