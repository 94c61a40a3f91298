"""Grounding DINO and DINOv3 behind the server and in process: the same bits."""

import numpy as np
import pytest
import tiny_eyes
from eyes_server import EyesServer
from test_remote import closing, detector_at, features_at

pytestmark = [pytest.mark.parity, pytest.mark.slow]
PICTURES = [tiny_eyes.picture(seed=seed) for seed in range(3)] + [tiny_eyes.picture(31, 90, seed=3)]


@pytest.fixture(autouse=True)
def torch():
    return pytest.importorskip("torch")


def test_grounding_dino_says_the_same_in_another_process(tmp_path):
    from editr2_jax.services.grounding_dino import GroundingDino

    folder = tiny_eyes.grounding_dino(tmp_path / "tiny-dino")
    here = GroundingDino(folder, threshold=0.02)
    with EyesServer("detector", f"--folder={folder}", "--threshold=0.02", kind="grounding_dino") as server:
        assert server.model == "tiny-dino@0.02"
        with closing(detector_at(server, model=server.model)) as detector:
            for picture in PICTURES:
                found = here.detect(picture, ["a red cat", "sign"])
                assert detector.detect(picture, ["a red cat", "sign"]) == found  # doubles, compared without a tolerance
            assert len(found) > 0
            with pytest.raises(Exception, match="a phrase needs a word"):
                detector.detect(PICTURES[0], ["..."])
            assert detector.counters()["requests"] == len(PICTURES) + 1


@pytest.mark.parametrize("kind, size", [("dinov3_torch", None), ("dinov3_torch", 32), ("dinov3", 32)])
def test_dinov3_says_the_same_in_another_process(tmp_path, kind, size):
    from editr2_jax import judging
    from editr2_jax.services.torch_dinov3 import TorchDinoV3

    folder = tiny_eyes.dinov3(tmp_path / "tiny-dinov3")
    make = TorchDinoV3 if kind == "dinov3_torch" else judging.jax_dinov3
    here = make(folder, size=size).embed(PICTURES)
    with EyesServer("features", f"--folder={folder}", *([f"--size={size}"] if size else []), kind=kind) as server:
        with closing(features_at(server, model="tiny-dinov3" + (f"@{size}" if size else ""))) as features:
            there = features.embed(PICTURES)
    assert there.patches.shape == here.patches.shape and there.cls.dtype == np.float32
    assert there.cls.tobytes() == np.asarray(here.cls).tobytes() and there.patches.tobytes() == np.asarray(here.patches).tobytes()
