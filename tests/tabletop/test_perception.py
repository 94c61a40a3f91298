"""The tabletop perception reads clean, noisy and blurred pictures, of any size, and says when it is not sure."""

import collections
import threading

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from editr2_jax.tabletop import perception, perception_analysis, render, scene

SEEDS = range(60)


def drawn(seed, size=(64, 64), texts=True):
    """A scene, with a text in every other one, and its picture."""
    rng = np.random.default_rng(seed)
    start = scene.sample(rng, grid=scene.grid_for(size))
    items = list(start.items)
    if texts and seed % 2:
        place = scene.jittered(scene.free_cells(start)[0], rng, plate=True)
        items.append(scene.Item(kind=scene.TEXT, name="K", glyph="K", places=(place,), colour=scene.COLOURS[seed % 8]))
    whole = scene.Scene(background=start.background, items=tuple(items), grid=start.grid, phase=start.phase)
    return whole, render.render(whole, size)


def degraded(picture, seed, *, noise=0.0, blur=0.0, shift=0.0):
    rng = np.random.default_rng(seed)
    pixels = gaussian_filter(picture.astype(np.float32), (blur, blur, 0)) + rng.uniform(-shift, shift, 3)
    return np.clip(pixels + rng.normal(0, noise, picture.shape) + 0.5, 0, 255).astype(np.uint8)


def looks(analysis):
    return collections.Counter((seen.kind, seen.colour, seen.material, seen.glyph) for seen in analysis.objects)


def truth(whole):
    return collections.Counter((item.kind, item.colour, item.material, item.glyph) for item in whole.items for _ in item.places)


def error_rate(seeds, **degrade):
    wrong = 0
    for seed in seeds:
        whole, picture = drawn(seed)
        analysis = perception_analysis.analyse(degraded(picture, seed, **degrade))
        wrong += looks(analysis) != truth(whole) or analysis.background != whole.background
    return wrong / len(seeds)


@pytest.mark.parametrize("degrade", [{}, {"noise": 8}, {"blur": 0.8}, {"noise": 8, "blur": 0.8, "shift": 8}])
def test_whole_pictures_are_read_without_error(degrade):
    assert error_rate(SEEDS, **degrade) <= (0.02 if "shift" in degrade else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degrade", "limit"), [({}, 0.001), ({"noise": 8}, 0.001), ({"blur": 0.8}, 0.003), ({"noise": 8, "blur": 0.8, "shift": 8}, 0.01)]
)
def test_whole_pictures_are_read_with_few_errors(degrade, limit):
    assert error_rate(range(1000, 2000), **degrade) <= limit


@pytest.mark.parametrize("size", [(48, 48), (96, 96), (64, 96), (128, 64), (100, 130), (256, 256)])
def test_any_size_is_read(size):
    wrong = sum(looks(perception_analysis.analyse(picture)) != truth(whole) for whole, picture in (drawn(seed, size) for seed in range(20)))
    assert wrong <= (2 if min(size) < 64 else 0)


def test_boxes_lie_on_the_objects():
    for seed in range(20):
        whole, picture = drawn(seed)
        true = [box for item in whole.items for box in render.boxes(item, whole.grid)]
        seen = [found.box for found in perception_analysis.analyse(picture).objects]
        for box in true:
            assert min(np.abs(np.subtract(box, other)).max() for other in seen) < 1.6 / 64


def test_an_object_across_a_seam_is_one_object():
    for across in (0.3, 0.4, 0.5):
        item = scene.Item(kind="ball", name="red ball", colour="red", places=(scene.Place(1, 1, across=across),))
        seen = perception_analysis.analyse(render.render(scene.Scene(background="sky", items=(item,)))).objects
        assert [(found.kind, found.colour) for found in seen if found.score >= 0.3] == [("ball", "red")], (across, seen)


def test_an_empty_table_has_no_objects():
    for background in scene.BACKGROUNDS:
        picture = render.render(scene.Scene(background=background, items=(), phase=3))
        analysis = perception_analysis.analyse(picture)
        assert not analysis.objects and analysis.background == background and analysis.background_score > 0.9


def test_a_picture_of_nothing_is_not_believed():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    analysis = perception_analysis.analyse(noise)
    assert all(seen.score < 0.3 for seen in analysis.objects) and analysis.background_score < 0.5
    grey = perception_analysis.analyse(np.full((64, 64, 3), 90, np.uint8))
    assert not grey.objects and grey.background_score < 0.5


def test_confidence_falls_with_the_picture():
    whole, picture = drawn(2)
    scores = [
        np.mean([seen.score for seen in perception_analysis.analyse(degraded(picture, 1, noise=noise, blur=blur)).objects])
        for noise, blur in ((0, 0), (20, 2), (40, 3))
    ]
    assert scores[0] > scores[1] > scores[2]


def test_a_phrase_fits_what_it_names_and_leaves_the_rest_open():
    wooden = perception.Seen(kind="ball", colour="blue", material="wooden", glyph="", box=(0, 0, 1, 1), score=1.0)
    phrases = ("wooden blue ball", "ball", "blue ball", "red ball", "blue box")
    fit = {phrase: perception.fits(perception.read_name(phrase), wooden) for phrase in phrases}
    assert fit["wooden blue ball"] == 1 and 0.3 < fit["blue ball"] < 1 and fit["ball"] > 0.3
    assert fit["red ball"] == 0 and fit["blue box"] == 0
    assert perception.fits(perception.read_name("metal blue ball"), wooden) == 0
    for phrase in ("", "dog", "shiny ball", "red blue ball", "ball box", "blue"):
        assert perception.read_name(phrase) is None


def test_the_detector_answers_each_phrase_and_nothing_for_strange_ones():
    whole, picture = drawn(4)
    detector = perception.TabletopDetector()
    names = [item.name for item in whole.items]
    found = detector.detect(picture, [*names, "dog"])
    counts = collections.Counter(d.phrase for d in found if d.score > 0.3)
    assert counts == {item.name: item.count for item in whole.items}
    assert all(0 <= side <= 1 for d in found for side in d.box)


def test_a_picture_is_read_once_however_many_look(monkeypatch):
    calls, real = [], perception_analysis.analyse
    monkeypatch.setattr(perception_analysis, "analyse", lambda picture: calls.append(1) or real(picture))
    eyes, (_, picture) = perception.Eyes(capacity=2), drawn(0)
    threads = [threading.Thread(target=eyes.look, args=(picture.copy(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1
    for seed in (1, 2, 3):
        eyes.look(drawn(seed)[1])
    eyes.look(picture)
    assert len(calls) == 5  # forgotten, read again


def test_features_are_a_kernel_of_looks():
    features, (_, picture) = perception.TabletopFeatures(), drawn(0)
    found = features.embed([picture, picture, degraded(picture, 1, noise=8), 255 - picture, picture[:20, :30]])
    assert found.patches.shape == (5, 16, 16, 256) and found.cls.shape == (5, 256)
    similar = found.cls @ found.cls[0]
    np.testing.assert_allclose(np.linalg.norm(found.cls, axis=-1), 1, atol=1e-5)
    assert similar[1] == pytest.approx(1, abs=1e-5) and similar[2] > 0.95 and similar[3] < 0.7


def test_a_wrong_array_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        perception_analysis.analyse(np.zeros((64, 64, 3), np.float32))
