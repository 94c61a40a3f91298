"""The section `rewards` of a config becomes a suite: rewards over the services, models and eyes that it names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from etils import epath
from flax import nnx

from editr2_jax.assemble import choose, settings
from editr2_jax.models.bagel.bagel import Bagel
from editr2_jax.porting import dinov3_weights
from editr2_jax.rewards.base import FeatureExtractor, Features, QuestionAnswerer, Reward, TokenExtractor
from editr2_jax.rewards.compat.consistency import EditR2Consistency, EdivalConsistency
from editr2_jax.rewards.compat.edit_r2_if import EDIT_R2
from editr2_jax.rewards.compat.edival_if import EDIVAL
from editr2_jax.rewards.compat.instruction_following import CompatInstructionFollowing
from editr2_jax.rewards.compat.prefix_judge import CompatPrefixJudge
from editr2_jax.rewards.content_consistency import ContentConsistency, ContentConsistencyConfig, at_size
from editr2_jax.rewards.global_awareness import GlobalAwareness, GlobalAwarenessConfig
from editr2_jax.rewards.instruction_following import InstructionFollowing, InstructionFollowingConfig
from editr2_jax.rewards.suite import Suite
from editr2_jax.rewards.trajectory_grade import TrajectoryGrade, TrajectoryGradeConfig
from editr2_jax.rewards.verdict_store import VerdictStore
from editr2_jax.runtime import places
from editr2_jax.services import dinov3_pictures
from editr2_jax.services.answer_cache import AnswerCache
from editr2_jax.services.detector_memory import DetectorMemory
from editr2_jax.services.dinov3 import JaxDinoV3
from editr2_jax.services.endpoints import Endpoints, EndpointsConfig
from editr2_jax.services.grounding_dino import GroundingDino
from editr2_jax.services.remote import RemoteDetector, RemoteDetectorConfig, RemoteFeatures, RemoteFeaturesConfig
from editr2_jax.services.torch_dinov3 import TorchDinoV3
from editr2_jax.services.vlm_judge import VlmAnswerer, VlmConfig
from editr2_jax.tabletop import perception
from editr2_jax.tabletop.perception_answers import TabletopAnswerer

T = TypeVar("T")


class VitFeatures:
    """The checkpoint's own vision transformer as a feature extractor: no second model for content consistency."""

    def __init__(self, whole: Bagel):
        graph, state = nnx.split(whole)
        self._config, self._state = whole.config, state
        self._features = jax.jit(lambda state, picture: nnx.merge(graph, state).picture_features(picture))

    def embed(self, pictures: Sequence[np.ndarray]) -> Features:
        """Pictures of any size, resized to one square, nothing cut off; `cls` is the mean over patches (SigLIP has none)."""
        side = self._config.vit.patch * min(self._config.vit_side, 16)
        same = np.stack([at_size(picture, (side, side)) for picture in pictures])
        rows = 1 << (len(same) - 1).bit_length()  # few compiled sizes
        padded = np.concatenate([same, np.repeat(same[-1:], rows - len(same), axis=0)])
        patches = np.asarray(self._features(self._state, padded), np.float32)[: len(same)]
        return Features(cls=patches.mean(axis=(1, 2)), patches=patches)


class Watch(Protocol):
    """What stands between rewards and those that they ask, and sees both."""

    def answerer(self, answerer: QuestionAnswerer) -> QuestionAnswerer: ...

    def reward(self, reward: Reward) -> Reward: ...


def suite(
    config,
    whole: Callable[[], Bagel],
    *,
    more: Sequence[Reward] = (),
    store: VerdictStore | None = None,
    watch: Watch | None = None,
) -> Suite:
    """The rewards in use over the services that stand behind them; `whole` gives the model for its own ViT features.

    `more`: rewards of one's own beside them; what one counts stands in rewards.weights, as for theirs. `watch` overhears.
    """
    rewards = config.rewards
    eyes = perception.Eyes()
    services: dict[str, Any] = {}  # what is closed with the suite, and counted under these names

    def one(name: str, make: Callable[[], T]) -> T:
        """One pool and one cache for all rewards that ask the model."""
        if name not in services:
            services[name] = make()
        return services[name]

    one_vlm = lambda: one("judge", lambda: vlm_answerer(rewards.vlm))  # noqa: E731
    detectors = {
        "tabletop": lambda: perception.TabletopDetector(eyes),
        "grounding_dino": lambda: one("detector", lambda: DetectorMemory(grounding_dino(rewards.grounding_dino))),
        "http": lambda: one("detector", lambda: _behind_http(RemoteDetector, RemoteDetectorConfig, rewards.detector_http)),
        "none": lambda: None,
    }
    features = {
        "tabletop": perception.TabletopFeatures,
        "vit": lambda: _own_vit(config, whole),
        "dinov3": lambda: dinov3(rewards.dinov3),
        "dinov3_torch": lambda: dinov3_torch(rewards.dinov3),
        "http": lambda: one("features", lambda: _behind_http(RemoteFeatures, RemoteFeaturesConfig, rewards.features_http)),
    }

    answerers = {"tabletop": lambda: TabletopAnswerer(eyes), "vlm": one_vlm}

    def answerer() -> QuestionAnswerer:
        made = choose("rewards.answerer", rewards.answerer, answerers)()
        return made if watch is None else watch.answerer(made)

    asked = {name: rewards.vlm[name] for name in ("language", "votes")} if rewards.answerer == "vlm" else {}
    edits = InstructionFollowingConfig(**asked, soft=rewards.answerer == "vlm" and rewards.vlm.soft)
    detector = choose("rewards.detector", rewards.detector, detectors)
    eye = lambda: choose("rewards.features", rewards.features, features)()  # noqa: E731
    votes, graded = asked.get("votes", 1), {"whole": rewards.trajectory_grade.whole, "turns": config.rollout.turns}
    makers = {
        "if": lambda: InstructionFollowing(_needed(detector(), "if"), answerer(), config=edits),
        "cc": lambda: ContentConsistency(eye(), detector(), config=ContentConsistencyConfig(inset=rewards.inset)),
        "ga": lambda: GlobalAwareness(answerer(), config=GlobalAwarenessConfig(**asked)),
        "trajectory_grade": lambda: TrajectoryGrade(answerer(), config=TrajectoryGradeConfig(**asked, **graded)),
    }
    makers |= _published(config, detector, eye, answerer, votes)
    used = [*(choose("rewards.use", name, makers)() for name in rewards.use), *more]
    used = used if watch is None else [watch.reward(reward) for reward in used]
    weights = _of_those(rewards.weights.to_dict(), [reward.name for reward in used])
    limits = {name: rewards[name] for name in ("workers", "max_error_share", "min_valid_weight")}
    return Suite(used, weights, **limits, store=store, services=services)


def _of_those(weights: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """rewards.weights without rewards that are not in use: name -> weight, or subset -> (name -> weight)."""
    return {
        key: _of_those(value, names) if isinstance(value, Mapping) else value
        for key, value in weights.items()
        if isinstance(value, Mapping) or key in names
    }


def _own_vit(config, whole: Callable[[], Bagel]) -> VitFeatures:
    """The checkpoint's own ViT, where it stays as it is: pictures before and after training are measured alike."""
    if config.train == "full" and "vit" in config.parts:
        raise ValueError(
            "rewards.features='vit' looks through the ViT that parts names to be trained, so CC would move with it; "
            "take 'vit' out of parts, or other features (dinov3, http)."
        )
    return VitFeatures(whole())


def _published(config, detector, eye, answerer, votes: int) -> dict[str, Callable[[], Reward]]:
    """Makers of the rewards that the config wants in a published evaluator's arithmetic; EdiVal has no GA, so ours stays."""

    def following(whose) -> Reward:
        return CompatInstructionFollowing(_needed(detector(), "if"), answerer(), whose, votes=votes)

    def consistency(whose) -> Reward:
        return whose(_with_tokens(eye(), config), _needed(detector(), "cc"))

    published = {
        "fixed": {},
        "edit_r2": {
            "if": lambda: following(EDIT_R2),
            "cc": lambda: consistency(EditR2Consistency),
            "ga": lambda: CompatPrefixJudge(answerer(), votes=votes),
        },
        "edival": {"if": lambda: following(EDIVAL), "cc": lambda: consistency(EdivalConsistency)},
    }
    return choose("rewards.arithmetic", config.rewards.arithmetic, published)


def vlm_answerer(section) -> VlmAnswerer:
    """A vision-language model behind a server, from the section rewards.vlm; nothing is sent before it is asked."""
    return _behind_http(VlmAnswerer, VlmConfig, section)


def _behind_http(client: Callable[..., T], cls: type, section) -> T:
    """A client with its pool and its cache: settings of all three stand side by side in one section."""
    part = lambda cls: settings(cls, {field.name: section[field.name] for field in dataclasses.fields(cls)})  # noqa: E731
    model, endpoints = part(cls), Endpoints(part(EndpointsConfig))
    return client(model, endpoints, cache=AnswerCache(section.cache, mode=section.cache_mode) if section.cache else None)


def grounding_dino(section) -> GroundingDino:
    """Grounding DINO in PyTorch, from the section rewards.grounding_dino."""
    folder = _existing("rewards.grounding_dino.folder", section.folder, "Grounding DINO")
    return _loaded(GroundingDino, folder, device=section.device, threshold=section.threshold)


def dinov3(section) -> JaxDinoV3:
    """DINOv3 in JAX, from the section rewards.dinov3."""
    return _loaded(jax_dinov3, _existing("rewards.dinov3.folder", section.folder, "DINOv3"), size=section.size or None)


def dinov3_torch(section) -> TorchDinoV3:
    """DINOv3 in PyTorch, from the section rewards.dinov3."""
    folder = _existing("rewards.dinov3.folder", section.folder, "DINOv3")
    return _loaded(TorchDinoV3, folder, device=section.device, size=section.size or None)


@functools.lru_cache(maxsize=2)  # a detector and an extractor: training and each of its evaluations make a suite, and read them once
def _loaded(make: Callable[..., T], folder: Path | epath.Path, **how: Any) -> T:
    return make(folder, **how)


def jax_dinov3(folder: str | Path | epath.Path, *, size: int | None) -> JaxDinoV3:
    """DINOv3 in JAX from a folder; size: side of the pictures, None: the folder's."""
    return JaxDinoV3(dinov3_weights.load_folder(folder), dinov3_pictures.read_rule(folder).at(size))


def _existing(key: str, name: str, what: str) -> Path | epath.Path:
    """A folder that holds a checkpoint of Hugging Face."""
    if not name:
        raise ValueError(f"{key} is empty; give the folder of a {what} checkpoint as Hugging Face publishes it (config.json, safetensors).")
    folder = places.place(name)
    if not (folder / "config.json").exists():
        raise ValueError(f"{key}: {name} holds no config.json; give the folder of a {what} checkpoint as Hugging Face publishes it.")
    return folder


def _needed(detector, reward: str):
    if detector is None:
        raise ValueError(f"the reward {reward!r} needs a detector; set rewards.detector, or take {reward!r} out of rewards.use.")
    return detector


def _with_tokens(features: FeatureExtractor, config) -> TokenExtractor:
    if not isinstance(features, TokenExtractor):
        raise ValueError(
            f"rewards.arithmetic={config.rewards.arithmetic} takes a model's registers for patches, and rewards.features="
            f"{config.rewards.features} shows none; take a DINOv3, or 'cc' out of rewards.use."
        )
    return features
