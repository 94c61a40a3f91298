import bagel_cases as golden
import numpy as np
import pytest

from editr2_jax.resize_rule import ResizeRule


@pytest.mark.golden
@pytest.mark.parametrize("setting", [(1024, 512, 16), (980, 224, 14)])
def test_shapes_are_the_recorded_ones(setting):
    rule = ResizeRule(max_size=setting[0], min_size=setting[1], stride=setting[2])
    ours = [rule.shape(int(w), int(h)) for w, h in golden.get("j.input_sizes")]
    golden.check(np.array(ours), "j.sizes_{}_{}_{}".format(*setting))


def test_an_empty_picture_has_no_shape():
    with pytest.raises(ValueError, match="0x5"):
        ResizeRule(max_size=64, min_size=32, stride=16).shape(0, 5)
