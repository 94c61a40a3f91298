"""The README's objective of one's own, word for word: put beside the others, it is found, can be configured, and does what it says."""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import points_by_hand as by_hand
import pytest

from editr2_jax import assemble, presets
from editr2_jax.objectives import catalogue, image
from editr2_jax.objectives.points import Velocities

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def spo(tmp_path, monkeypatch):
    """The file, in a second folder of the package of image objectives."""
    (tmp_path / "spo.py").write_text(blocks()[0])
    monkeypatch.setattr(image, "__path__", [*image.__path__, str(tmp_path)])
    catalogue.names.cache_clear()
    catalogue.named.cache_clear()
    yield catalogue.named("image", "spo")
    catalogue.names.cache_clear()
    catalogue.named.cache_clear()
    sys.modules.pop("editr2_jax.objectives.image.spo")


def test_it_is_short(spo):
    assert len(blocks()[0].splitlines()) < 60


def test_it_pulls_back_what_went_too_far(spo):
    old = by_hand.velocity(2)
    at = by_hand.window([1.0, -1.0], v_old=old)
    likelier = old + 0.3 * jax.grad(lambda v: at.density(v).log_prob.sum())(old)
    at_old, beyond = (spo.loss(at, Velocities(v), spo.Config()) for v in (old, likelier))
    np.testing.assert_allclose(at_old.value, [-1.0, 1.0], rtol=1e-5)
    assert (beyond.value > at_old.value).all(), "on either side of the optimum the parabola wins"


def test_a_config_can_choose_it_and_set_its_own_settings(spo):
    namespace = {}
    exec(blocks()[1], namespace)
    config = namespace["get_config"]()
    config.objective.image.spo.eps = 1e-3
    made = assemble.objective(config).image
    assert made.kind == "spo" and dataclasses.asdict(made.settings)["eps"] == 1e-3
    assert "spo" in presets.edit_r2().objective.image
