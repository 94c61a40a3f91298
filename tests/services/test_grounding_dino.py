"""Grounding DINO as a detector: which box answers which phrase, by scripted scores; and the tiny model against transformers' own way."""

import json
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_eyes
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.rewards.base import Detector, ServiceError
from editr2_jax.services import grounding_dino
from editr2_jax.services.grounding_dino import GroundingDino


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A BERT tokenizer of a few words; it needs no torch."""
    import transformers

    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(tiny_eyes.vocabulary()) + "\n")
    return transformers.BertTokenizerFast(str(path), do_lower_case=True)


def spans_of(tokenizer, phrases):
    text, places = grounding_dino.joined(phrases)
    told = tokenizer(text, return_offsets_mapping=True)
    return told["input_ids"], grounding_dino.token_spans(told["offset_mapping"], places)


@pytest.mark.parametrize(
    ("asked", "read"),
    [("Red  Cat.", "red cat"), ("St. Bernard", "st bernard"), ("U.S. flag", "us flag"), (" HAT\n", "hat"), ("no ?", "no ?")],
)
def test_phrases_are_lower_case_without_dots(asked, read):
    assert grounding_dino.clean(asked) == read


@pytest.mark.parametrize("asked", ["", " ", "...", "\n."])
def test_a_phrase_without_a_word_is_refused(asked):
    with pytest.raises(ValueError, match="a phrase needs a word"):
        grounding_dino.clean(asked)


def test_the_prompt_is_the_published_one():
    assert grounding_dino.joined(["red cat"]) == ("red cat .", [(0, 7)])
    assert grounding_dino.joined(["red cat", "hat", "dog"]) == ("red cat . hat . dog .", [(0, 7), (10, 13), (16, 19)])


words = st.sampled_from(["red", "cat", "hats", "dog's", "cup,", "what?!", "sign", "ünknown", "'no'", "a1", "black"])
several = st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5)


@given(phrases=several)
def test_every_phrase_has_the_tokens_it_has_alone_and_no_separator(tokenizer, phrases):
    ids, spans = spans_of(tokenizer, phrases)
    alone = [tokenizer(phrase)["input_ids"][1:-1] for phrase in phrases]
    assert [ids[begin:end] for begin, end in spans] == alone
    assert len(ids) == sum(map(len, alone)) + len(phrases) + 2  # nothing else but a dot each, and the two markers


def test_text_that_the_tokenizer_does_not_see_is_refused(tokenizer):
    with pytest.raises(ValueError, match="sees nothing in characters 6 to 7"):
        spans_of(tokenizer, ["cat", "\u200d"])


def test_scores_are_the_best_token_of_the_phrase_alone():
    """Tokens: [CLS] red cat . hat . [SEP]; separators and markers may score what they like."""
    logits = np.array([[9.0, -2.0, 1.0, 9.0, -1.0, 9.0, 9.0], [-np.inf, 3.0, -9.0, 0.0, 0.5, 0.0, 0.0]], np.float32)
    scores = grounding_dino.phrase_scores(logits, [(1, 3), (4, 5)])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([[-1.0, 1.0], [-3.0, -0.5]])))


def test_extreme_scores_stay_between_zero_and_one_and_nan_is_an_error():
    np.testing.assert_array_equal(grounding_dino.phrase_scores(np.array([[-np.inf, -1e4, 1e4]]), [(0, 1), (1, 2), (2, 3)]), [[0, 0, 1]])
    with pytest.raises(ServiceError, match="no numbers"):
        grounding_dino.phrase_scores(np.array([[np.nan, 1.0]]), [(0, 2)])


def test_boxes_are_corners_within_the_picture():
    assert grounding_dino.corners(np.array([0.5, 0.25, 0.5, 0.25])) == (0.25, 0.125, 0.75, 0.375)
    assert grounding_dino.corners(np.array([0.05, 0.9, 0.2, 0.4])) == pytest.approx((0.0, 0.7, 0.15, 1.0))
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(ServiceError, match="a box that is no numbers"):
            grounding_dino.corners(np.array([0.5, wrong, 0.2, 0.4]))


# with PyTorch ----------------------------------------------------------------------------------------------------------------------

parity = pytest.mark.parity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    return tiny_eyes.grounding_dino(tmp_path_factory.mktemp("eyes") / "grounding_dino")


@pytest.fixture(scope="module")
def detector(folder):
    return GroundingDino(folder, threshold=0.0)


class Scripted:
    """In the model's place: scores chosen by the words of each token, boxes one beside the other."""

    device = "cpu"

    def __init__(self, tokenizer, rows, *, max_text_len=24):
        self.config, self.asked = types.SimpleNamespace(max_text_len=max_text_len), []
        self._tokenizer, self._rows = tokenizer, rows

    def __call__(self, *, input_ids, **_):
        import torch

        tokens = self._tokenizer.convert_ids_to_tokens(input_ids[0].tolist())
        self.asked.append(self._tokenizer.decode(input_ids[0], skip_special_tokens=True))
        logits = torch.full((1, len(self._rows), self.config.max_text_len), -torch.inf)
        for query, row in enumerate(self._rows):
            for place, token in enumerate(tokens):
                chance = row.get(token, 0.01)
                logits[0, query, place] = np.log(chance / (1 - chance))
        boxes = torch.tensor([[[(query + 0.5) / 10, 0.5, 0.1, 0.2] for query in range(len(self._rows))]])
        return types.SimpleNamespace(logits=logits, pred_boxes=boxes)


@pytest.fixture
def scripted(folder, monkeypatch):
    """A detector whose model gives scripted rows: token -> score, for each box."""

    def make(*rows, threshold=0.25, **sizes):
        made = GroundingDino(folder, threshold=threshold)
        monkeypatch.setattr(made, "_model", Scripted(made._tokenizer, rows, **sizes))
        return made

    return make


def found(detections):
    return [(round(d.box[0] * 10), d.phrase, round(d.score, 3)) for d in detections]


@parity
def test_a_box_answers_the_phrases_that_it_scores_and_no_other(scripted):
    """transformers would call box 1 "red hat" (a phrase that nobody asked for), box 3 "." and box 4 "cat dog"."""
    rows = {"cat": 0.9}, {"red": 0.6, "hat": 0.5}, {"dog": 0.2}, {".": 0.9, "[SEP]": 0.9, "[CLS]": 0.9}, {"cat": 0.3, "dog": 0.8}
    eyes = scripted(*rows)
    asked = ["Red cat.", "dog", "hat"]
    assert found(eyes.detect(tiny_eyes.picture(), asked)) == [
        (0, "Red cat.", 0.9),
        (1, "Red cat.", 0.6),
        (1, "hat", 0.5),
        (4, "Red cat.", 0.3),
        (4, "dog", 0.8),
    ]
    assert eyes._model.asked == ["red cat. dog. hat."], "one pass for all of them"


@parity
def test_phrases_that_read_alike_are_asked_once_and_all_answered(scripted):
    eyes = scripted({"cat": 0.9})
    assert found(eyes.detect(tiny_eyes.picture(), ["cat", "Cat.", "cat"])) == [(0, "cat", 0.9), (0, "Cat.", 0.9)]
    assert eyes._model.asked == ["cat."]


@parity
def test_the_threshold_is_the_callers_and_nothing_found_is_an_answer(scripted):
    assert found(scripted({"cat": 0.5}, {"cat": 0.7}, threshold=0.6).detect(tiny_eyes.picture(), ["cat"])) == [(1, "cat", 0.7)]
    assert scripted({"cat": 0.5}).detect(tiny_eyes.picture(), ["dog"]) == []


@parity
def test_a_model_without_numbers_is_an_outage_and_no_fault_of_the_question(scripted, monkeypatch):
    with pytest.raises(ServiceError, match="scores that are no numbers; its weights or the device"):
        scripted({"cat": float("nan")}).detect(tiny_eyes.picture(), ["cat"])
    eyes = scripted({"cat": 0.9})
    answer = eyes._model.__call__

    def without_boxes(**asked):
        told = answer(**asked)
        return types.SimpleNamespace(logits=told.logits, pred_boxes=told.pred_boxes * float("nan"))

    without_boxes.config, without_boxes.device = eyes._model.config, "cpu"
    monkeypatch.setattr(eyes, "_model", without_boxes)
    with pytest.raises(ServiceError, match="a box that is no numbers; its weights or the device"):
        eyes.detect(tiny_eyes.picture(), ["cat"])


@parity
def test_more_phrases_than_fit_are_asked_in_turn(scripted):
    """Eight tokens: two markers, and three phrases of one word with their dots."""
    eyes = scripted({"cat": 0.9}, {"cup": 0.8}, max_text_len=8)
    assert found(eyes.detect(tiny_eyes.picture(), ["cat", "dog", "hat", "cup"])) == [(0, "cat", 0.9), (1, "cup", 0.8)]
    assert eyes._model.asked == ["cat. dog. hat.", "cup."]
    with pytest.raises(ValueError, match="more tokens than the model's 8"):
        eyes.detect(tiny_eyes.picture(), ["cat", "the red cat on the black table"])


@parity
def test_one_phrase_is_answered_as_by_transformers(folder, detector):
    """The same pixels, prompt, boxes and scores as the published way: processor, model, post-processing."""
    import torch
    import transformers

    picture = tiny_eyes.picture(50, 70)
    processor = transformers.GroundingDinoProcessor(
        transformers.GroundingDinoImageProcessorPil.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    )
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=picture, text="red cat .", return_tensors="pt", input_data_format="channels_last")
    assert tuple(inputs["pixel_values"].shape) == (1, 3, 80, 112), "the short side of 80 pixels"
    with torch.no_grad():
        outputs = model(**inputs)
    outputs.logits[..., [0, 3, 4]] = -torch.inf  # markers and dot, which belong to no phrase
    (theirs,) = processor.post_process_grounded_object_detection(outputs, threshold=0.0, text_threshold=0.0)
    ours = detector.detect(picture, ["Red cat."])
    assert isinstance(detector, Detector) and len(ours) == len(theirs["scores"]) == 12
    assert {d.phrase for d in ours} == {"Red cat."}
    np.testing.assert_allclose([d.score for d in ours], theirs["scores"].numpy(), rtol=1e-5)
    np.testing.assert_allclose([d.box for d in ours], theirs["boxes"].numpy().clip(0, 1), atol=1e-6)
    assert np.ptp([d.score for d in ours]) > 0 and np.ptp([d.box[0] for d in ours]) > 0.1, "boxes that differ"


@parity
def test_long_pictures_keep_to_the_long_side(detector):
    pixels = detector._processor(images=tiny_eyes.picture(20, 100), input_data_format="channels_last", return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 26, 128)


@parity
def test_the_same_question_gets_the_same_answer_in_any_thread(detector):
    asked = [(tiny_eyes.picture(30 + number, 40, seed=number), ["red cat", "hat", "dog"][: 1 + number % 3]) for number in range(6)]
    before = [detector.detect(*question) for question in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda question: detector.detect(*question), asked)) == before


@parity
def test_what_cannot_be_asked_is_refused(detector):
    for picture in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match="wants a uint8 picture"):
            detector.detect(picture, ["cat"])
    with pytest.raises(ValueError, match="sequence of phrases"):
        detector.detect(tiny_eyes.picture(), "cat")
    with pytest.raises(ValueError, match="needs a word"):
        detector.detect(tiny_eyes.picture(), ["cat", "..."])
    assert detector.detect(tiny_eyes.picture(), []) == []


@parity
def test_a_folder_that_does_not_fit_is_refused(folder, tmp_path):
    import shutil

    with pytest.raises(ValueError, match="threshold is 1.5"):
        GroundingDino(folder, threshold=1.5)
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    with pytest.raises(ValueError, match=r"broken: the weights do not fit(.|\n)*missing: model.encoder.layers.2"):
        GroundingDino(broken)
    (broken / "config.json").write_text(json.dumps(config | {"encoder_layers": 1}))
    with pytest.raises(ValueError, match=r"broken: the weights do not fit(.|\n)*unexpected: model.encoder.layers.1"):
        GroundingDino(broken)
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "owlvit"}))
    with pytest.raises(ValueError, match="'owlvit'; 'grounding-dino' is wanted"):
        GroundingDino(broken)
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="preprocessor or the tokenizer"):
        GroundingDino(broken)
