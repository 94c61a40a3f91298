"""IF in three arithmetics, one row a case: ours, Edit-R2's, EdiVal's. Picture 0 is the input, picture 1 the output.

Where the columns differ, the published evaluators have a defect that ours repairs, or EdiVal and Edit-R2 ask for different things.
"""

import json

import numpy as np
import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import instruction_following, suite
from editr2_jax.rewards.compat.edit_r2_if import EDIT_R2
from editr2_jax.rewards.compat.edival_if import EDIVAL
from editr2_jax.rewards.compat.instruction_following import CompatInstructionFollowing, counted, singular
from editr2_jax.rewards.compat.prompts import TEXTS

SIDE = 512  # the evaluators round centres to pixels, and EdiVal brings pictures to this size
LEFT, MIDDLE, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.4, 0.4, 0.6, 0.6), (0.8, 0.4, 1.0, 0.6)
TOP, BOTTOM = (0.4, 0.0, 0.6, 0.2), (0.4, 0.8, 0.6, 1.0)
WHOLE, WIDE = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.99, 0.97)
INVALID, FORMAT, UNMEASURABLE = Status.INVALID_ANNOTATION, Status.JUDGE_FORMAT_ERROR, Status.UNMEASURABLE

ADD = "Add [blue ball] on the [left] of [red box]"
ADD_FREE = "Add [blue ball]"
REMOVE = "Remove [red box]"
REPLACE = "Replace [red box] with [blue ball]"
COLOR = "Change the color of [red box] to [blue]"
MATERIAL = "Change the material of [red box] to [wooden]"
TEXT = "Replace the text '[K]' on [sign] with '[L]'"
TEXT_ADD = "Add text '[L]' on the image"
POSITION = "Change the position of [blue ball] to [left] of [red box]"
COUNT = "Change the count of [red box] to [2]"
BEHIND = "Change the position of [blue ball] to [behind] of [red box]"
BACKGROUND = "Change the background to [snow]"
KEEPING_TWO = "Change the background to snow, remain the red box, cat unchanged"
KEEPING = "Change the background to snow, remain the red box unchanged"
TYPES = {
    "Add text": "text_change",
    "Add": "subject_add",
    "Remove": "subject_remove",
    "Replace the text": "text_change",
    "Replace": "subject_replace",
    "Change the color": "color_alter",
    "Change the material": "material_alter",
    "Change the position": "position_change",
    "Change the count": "count_change",
    "Change the background": "background_change",
}


def at(x, y=0.5, side=0.1):
    """A box by its centre."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def beside(box, overlap):
    """The box moved right until its IoU with where it was is `overlap`."""
    shift = (box[2] - box[0]) * (1 - overlap) / (1 + overlap)
    return (box[0] + shift, box[1], box[2] + shift, box[3])


def found(**names):
    """Boxes by name; an underscore is a space; a box alone has confidence 0.9."""
    scored = {name: [item if isinstance(item[0], tuple) else (item, 0.9) for item in boxes] for name, boxes in names.items()}
    return {name.replace("_", " "): boxes for name, boxes in scored.items()}


def ball(*boxes):
    """The box and the ball."""
    return BOX | found(blue_ball=boxes)


class Judge:
    """One answer to every question; texts by picture; names without their first word."""

    def __init__(self, answer="yes", texts=((), ())):
        self.answer, self.texts, self.asked = answer, texts, []

    def ask(self, pictures, question):
        self.asked.append(question)
        question.text()
        if question.kind == "ev_core_noun":
            assert not pictures
            return f'"{question.fields["name"].split(" ", 1)[-1].title()}"\n'
        if question.kind == "read_text":
            return json.dumps({"texts": list(self.texts[fakes.number_of(pictures[0])])})
        if question.kind == "free_text":
            return " ".join(self.texts[fakes.number_of(pictures[0])])
        return self.answer


def verdicts(formatted, before, after, judge, natural="", task_type="", pictures=2, detector=None):
    """The verdicts on the last turn in the three arithmetics."""
    detector = detector or fakes.Detector({0: before, 1: after})
    kind = task_type or next(kind for words, kind in TYPES.items() if words in formatted)
    turn = fakes.turn(kind, formatted, available_objects=("red box",), **({"instruction": natural} if natural else {}))
    shown = [np.full((SIDE, SIDE, 3), number, np.uint8) for number in range(pictures)]
    rewards = (
        instruction_following.InstructionFollowing(detector, judge),
        CompatInstructionFollowing(detector, judge, EDIT_R2),
        CompatInstructionFollowing(detector, judge, EDIVAL),
    )
    return [suite.verdict_of(reward, fakes.episode([turn] * (pictures - 1), shown)) for reward in rewards]


BOX, BALL, SIGN, NOTHING = found(red_box=[MIDDLE]), found(blue_ball=[MIDDLE]), found(sign=[MIDDLE]), {}
BESIDE = BOX | found(blue_ball=[RIGHT])
HAT = found(red_hat=[MIDDLE])
YES, NO, EYES = Judge(), Judge("No."), Judge("the eyes are blue")


def row(name, formatted, before, after, judge, fixed, edit_r2, edival, natural=""):
    return pytest.param(formatted, before, after, judge, natural, (fixed, edit_r2, edival), id=name.replace(" ", "-"))


def read(before, after):
    return Judge(texts=(before, after))


TABLE = [
    # add
    row("add", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[LEFT]), YES, 1, 1, 1),
    row("add, judged no", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[LEFT]), NO, 0, 0, 0),
    row("add, yes inside eyes", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[LEFT]), EYES, FORMAT, 1, 1),
    row("add, wrong side", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[RIGHT]), YES, 0, 0, 0),
    row("add, one of two on the right side", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[RIGHT, LEFT]), YES, 1, 1, 1),
    row("add, not found", ADD, BOX, BOX, YES, 0, 0, 0),
    row("add, confidence 0.29", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[(LEFT, 0.29)]), YES, 0, 0, 0),
    row("add, confidence 0.30", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[(LEFT, 0.30)]), YES, 1, 0, 0),
    row("add, confidence 0.31", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[(LEFT, 0.31)]), YES, 1, 1, 1),
    row("add, 0.035 apart", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[at(0.465)]), YES, 1, 1, 1),
    row("add, 0.025 apart", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[at(0.475)]), YES, 0, 0, 0),
    row("add, 0.0293 apart, 0.031 in pixels", ADD, BOX, found(red_box=[MIDDLE], blue_ball=[at(0.4707)]), YES, 0, 1, 0),
    row("add, the reference moved over", ADD, BOX, found(red_box=[RIGHT], blue_ball=[MIDDLE]), YES, 1, 0, 0),
    row("add, the reference is lost", ADD, BOX, found(blue_ball=[LEFT]), YES, 1, 1, 1),
    row("add, the reference is new, too", ADD, NOTHING, found(red_box=[MIDDLE], blue_ball=[LEFT]), YES, 1, 0, 0),
    row("add, the reference never was", ADD, NOTHING, found(blue_ball=[LEFT]), YES, 0, 0, 0),
    row("add, it was there", ADD, BOX | found(blue_ball=[LEFT]), BOX | found(blue_ball=[LEFT]), YES, 0, 1, 1),
    row("add anywhere", ADD_FREE, BOX, BALL, YES, 1, 1, 1),
    row("add anywhere, judged no", ADD_FREE, BOX, BALL, NO, 0, 0, 0),
    row("add anywhere, not found", ADD_FREE, BOX, NOTHING, YES, 0, 0, 0),
    row("add to no known side", "Add [blue ball] on the [inside] of [red box]", BOX, BOX | BALL, YES, INVALID, 0, 0),
    row("add, words around", "Let me think. Add [blue ball]", BOX, BALL, YES, INVALID, 1, 1),
    row("add, another sentence", "Add a ball", BOX, BALL, YES, INVALID, 0, 0),
    # remove
    row("remove", REMOVE, BOX, NOTHING, YES, 1, 1, 1),
    row("remove, still there", REMOVE, BOX, BOX, YES, 0, 0, 0),
    row("remove, never there", REMOVE, NOTHING, NOTHING, YES, 0, 0, 0),
    row("remove, only moved", REMOVE, BOX, found(red_box=[LEFT]), YES, 0, 1, 1),
    row("remove, moved to IoU 0.19", REMOVE, BOX, found(red_box=[beside(MIDDLE, 0.19)]), YES, 0, 1, 1),
    row("remove, moved to IoU 0.21", REMOVE, BOX, found(red_box=[beside(MIDDLE, 0.21)]), YES, 0, 0, 0),
    row("remove, one of two", REMOVE, found(red_box=[LEFT, (RIGHT, 0.8)]), found(red_box=[RIGHT]), YES, 0, 1, 1),
    row("remove, the other of two", REMOVE, found(red_box=[LEFT, (RIGHT, 0.95)]), found(red_box=[RIGHT]), YES, 0, 0, 0),
    row("remove, confidence 0.34", REMOVE, found(red_box=[(MIDDLE, 0.34)]), NOTHING, YES, 0, 0, 0),
    row("remove, confidence 0.35", REMOVE, found(red_box=[(MIDDLE, 0.35)]), NOTHING, YES, 1, 0, 0),
    row("remove, confidence 0.36", REMOVE, found(red_box=[(MIDDLE, 0.36)]), NOTHING, YES, 1, 1, 1),
    row("remove, left with 0.34", REMOVE, BOX, found(red_box=[(MIDDLE, 0.34)]), YES, 1, 1, 1),
    row("remove, the whole picture", REMOVE, found(red_box=[WHOLE]), NOTHING, YES, 0, 0, 0),
    row("remove, 0.99 x 0.97 is not the whole", REMOVE, found(red_box=[WIDE]), NOTHING, YES, 1, 1, 1),
    row("remove, the best box is the whole", REMOVE, found(red_box=[(WHOLE, 0.95), MIDDLE]), NOTHING, YES, 1, 1, 1),
    row("remove, the whole is left", REMOVE, BOX, found(red_box=[WHOLE]), YES, 1, 1, 1),
    row("remove, a hat", "Remove [red hat]", HAT, HAT, YES, 0, 0, 1),
    row("remove, a hat by its word", "Remove [red hat]", HAT, HAT | found(hat=[MIDDLE]), YES, 0, 0, 0),
    row("remove, a hat by its word, large", "Remove [red hat]", HAT, HAT | found(hat=[WHOLE]), YES, 0, 0, 0),
    row("remove, hat in another word", "Remove [hatch]", found(hatch=[MIDDLE]), found(hatch=[MIDDLE]), YES, 0, 0, 1),
    row("remove, a bird", "Remove [Bird]", found(bird=[MIDDLE], Bird=[MIDDLE]), found(Bird=[MIDDLE]), YES, 0, 1, 1),
    row("remove, a bird still there", "Remove [small bird]", found(small_bird=[LEFT]), found(small_bird=[LEFT]), YES, 0, 0, 1),
    # replace
    row("replace", REPLACE, BOX, BALL, YES, 1, 1, 1),
    row("replace, judged no", REPLACE, BOX, BALL, NO, 0, 0, 0),
    row("replace, yes inside eyes", REPLACE, BOX, BALL, EYES, FORMAT, 1, 1),
    row("replace, elsewhere", REPLACE, BOX, found(blue_ball=[LEFT]), YES, 0, 0, 0),
    row("replace, touches", REPLACE, BOX, found(blue_ball=[beside(MIDDLE, 0.05)]), YES, 0, 1, 1),
    row("replace, IoU 0.11", REPLACE, BOX, found(blue_ball=[beside(MIDDLE, 0.11)]), YES, 1, 1, 1),
    row("replace, both are there", REPLACE, BOX, BOX | BALL, YES, 0, 1, 1),
    row("replace, never there", REPLACE, NOTHING, BALL, YES, 0, 0, 0),
    row("replace, confidence 0.30", REPLACE, found(red_box=[(MIDDLE, 0.30)]), BALL, YES, 1, 0, 0),
    row("replace, plurals", "Replace [boxes] with [glass]", found(boxes=[MIDDLE]), found(glass=[MIDDLE]), YES, 1, 0, 0),
    row("replace, cut plurals", "Replace [boxes] with [glass]", found(box=[MIDDLE]), found(glas=[MIDDLE]), YES, 0, 1, 1),
    row("replace, shoes are sho", "Replace [shoes] with [trees]", found(sho=[MIDDLE]), found(tre=[MIDDLE]), YES, 0, 1, 1),
    # color, material
    row("color", COLOR, BOX, BOX, YES, 1, 1, 1),
    row("color, judged no", COLOR, BOX, BOX, NO, 0, 0, 0),
    row("color, yes inside eyes", COLOR, BOX, BOX, EYES, FORMAT, 1, 1),
    row("color, yes inside yesterday", COLOR, BOX, BOX, Judge("No, as yesterday."), 0, 1, 1),
    row("color, no answer", COLOR, BOX, BOX, Judge(""), FORMAT, 0, 0),
    row("material", MATERIAL, BOX, BOX, Judge("YES"), 1, 1, 1),
    row("material, judged no", MATERIAL, BOX, BOX, NO, 0, 0, 0),
    row("material, both words", MATERIAL, BOX, BOX, Judge("yes and no"), FORMAT, 1, 1),
    # text
    row("text", TEXT, SIGN, SIGN, read(["K"], ["L"]), 1, 1, 1),
    row("text, small letters", TEXT, SIGN, SIGN, read(["K"], ["l"]), 1, 1, 1),
    row("text, not there", TEXT, SIGN, SIGN, read(["K"], ["K"]), 0, 0, 0),
    row("text, beside the old one", TEXT, SIGN, SIGN, read(["K"], ["K", "L"]), 0, 1, 1),
    row("text, inside a word", TEXT, SIGN, SIGN, read(["K"], ["Lamp"]), 0, 1, 1),
    row("text, no carrier before", TEXT, NOTHING, SIGN, read(["K"], ["L"]), 0, 0, 0),
    row("text, no carrier after", TEXT, SIGN, NOTHING, read(["K"], ["L"]), 0, 1, 0),
    row("text, no carrier at 0.30", TEXT, found(sign=[(MIDDLE, 0.3)]), SIGN, read(["K"], ["L"]), 1, 0, 0),
    row("text, blank target", "Replace the text '[K]' on [sign] with '[]'", SIGN, SIGN, read(["K"], []), INVALID, 0, 0),
    row("text added", TEXT_ADD, BOX, BOX, read([], ["L"]), 1, 1, 1),
    row("text added, was there", TEXT_ADD, BOX, BOX, read(["L"], ["L"]), 0, 1, 1),
    row("text added, not there", TEXT_ADD, BOX, BOX, read([], []), 0, 0, 0),
    row("text added, blank target", "Add text '[]' on the image", BOX, BOX, read([], [""]), INVALID, 0, 0),
    # position
    row("position", POSITION, BESIDE, ball(LEFT), YES, 1, 1, 1),
    row("position, not moved", POSITION, BESIDE, BESIDE, YES, 0, 0, 0),
    row("position, 0.01 over", POSITION, BESIDE, ball(at(0.49, 0.2)), YES, 0, 1, 1),
    row("position, in one pixel", POSITION, BESIDE, found(red_box=[at(0.5015)], blue_ball=[at(0.5005, 0.2)]), YES, 0, 0, 0),
    row("position, copied", POSITION, BESIDE | found(ball=[RIGHT]), ball(LEFT, RIGHT) | found(ball=[LEFT, RIGHT]), YES, 0, 0, 0),
    row("position, reference lost", POSITION, BESIDE, found(blue_ball=[LEFT]), YES, 0, 0, 0),
    row("position, nothing there", POSITION, NOTHING, NOTHING, YES, 0, 0, 0),
    row("position, confidence 0.40", POSITION, BOX | BALL, ball((LEFT, 0.40)), YES, 1, 0, 1),
    row("position, confidence 0.35", POSITION, ball((RIGHT, 0.35)), ball((LEFT, 0.35)), YES, 0, 0, 1),
    row("position, first is not best", POSITION, ball(RIGHT, BOTTOM), ball((RIGHT, 0.5), (LEFT, 0.8)), YES, 1, 0, 1),
    row("position, first is right, best is not", POSITION, ball(RIGHT, BOTTOM), ball((LEFT, 0.5), (RIGHT, 0.8)), YES, 0, 1, 0),
    row("position, a duplicate is no copy", POSITION, BESIDE, ball(LEFT, (beside(LEFT, 0.85), 0.7)), YES, 1, 1, 1),
    row("position, IoU 0.75 is a copy", POSITION, BESIDE, ball(LEFT, (beside(LEFT, 0.75), 0.7)), YES, 0, 0, 1),
    row("position, inside the reference", POSITION, BESIDE, ball(at(0.45, side=0.05)), YES, 1, 1, 0),
    row("position, around the reference", POSITION, BESIDE, ball((0.0, 0.3, 0.7, 0.7)), YES, 1, 1, 0),
    row("position, another ball appears", POSITION, BESIDE | found(ball=[RIGHT]), ball(LEFT) | found(ball=[LEFT, TOP]), YES, 1, 1, 0),
    row("position, no known side", BEHIND, BOX | BALL, BOX | BALL, YES, INVALID, 0, 0),
    # count
    row("count", COUNT, BOX, found(red_box=[LEFT, RIGHT]), YES, 1, 1, 1),
    row("count, as before", COUNT, BOX, BOX, YES, 0, 0, 0),
    row("count, too many", COUNT, BOX, found(red_box=[LEFT, MIDDLE, RIGHT]), YES, 0, 0, 0),
    row("count, was right already", COUNT, found(red_box=[LEFT, RIGHT]), found(red_box=[LEFT, RIGHT]), YES, UNMEASURABLE, 1, 1),
    row("count, never there", COUNT, NOTHING, found(red_box=[LEFT, RIGHT]), YES, 0, 0, 0),
    row("count, IoU 0.85 is one", COUNT, BOX, found(red_box=[LEFT, (beside(LEFT, 0.85), 0.8), RIGHT]), YES, 1, 1, 1),
    row("count, IoU 0.75 is two", COUNT, BOX, found(red_box=[LEFT, (beside(LEFT, 0.75), 0.8)]), YES, 1, 1, 1),
    row("count, confidence 0.30", COUNT, BOX, found(red_box=[LEFT, (RIGHT, 0.30)]), YES, 1, 0, 0),
    row("count to none", "Change the count of [red box] to [0]", BOX, NOTHING, YES, 1, 1, 0),
    row("count, no number", "Change the count of [red box] to [many]", BOX, BOX, YES, INVALID, 0, 0),
    # background
    row("background", BACKGROUND, BOX, BOX, YES, 1, 1, 1, KEEPING),
    row("background, judged no", BACKGROUND, BOX, BOX, NO, 0, 0, 0, KEEPING),
    row("background, yes inside eyes", BACKGROUND, BOX, BOX, EYES, FORMAT, 1, 1, KEEPING),
    row("background, an object is lost", BACKGROUND, BOX, NOTHING, YES, 0, 1, 0, KEEPING),
    row("background, an object fills it", BACKGROUND, BOX, found(red_box=[WHOLE]), YES, 0, 1, 0, KEEPING),
    row("background, an object 0.89 high", BACKGROUND, BOX, found(red_box=[(0.0, 0.0, 1.0, 0.89)]), YES, 1, 1, 1, KEEPING),
    row("background, kept with 0.26", BACKGROUND, BOX, found(red_box=[(MIDDLE, 0.26)]), YES, 1, 1, 1, KEEPING),
    row("background, kept with 0.24", BACKGROUND, BOX, found(red_box=[(MIDDLE, 0.24)]), YES, 0, 1, 0, KEEPING),
    row("background, lost before", BACKGROUND, NOTHING, NOTHING, YES, 1, 1, 0, KEEPING),
    row("background, one of two to keep", BACKGROUND, BOX, BOX, YES, 1, 1, 0, KEEPING_TWO),
    row("background, both to keep", BACKGROUND, BOX, BOX | found(cat=[LEFT]), YES, 1, 1, 1, KEEPING_TWO),
    row("background, no list", BACKGROUND, BOX, BOX, YES, 1, 1, 0, "Change the background to snow"),
    row("background, no list but brackets", BACKGROUND, BOX, NOTHING, YES, 0, 1, 1, BACKGROUND),
    row("background, after a rule", BACKGROUND, BOX, BOX, YES, 1, 1, 1, f"Keep it red. With this rule active, {KEEPING}"),
]  # fmt: skip


@pytest.mark.parametrize(("formatted", "before", "after", "judge", "natural", "wanted"), TABLE)
def test_the_truth_table(formatted, before, after, judge, natural, wanted):
    told = verdicts(formatted, before, after, judge, natural)
    assert tuple(verdict.value if verdict.status is Status.OK else verdict.status for verdict in told) == wanted
    json.dumps([dict(verdict.detail) for verdict in told])


@pytest.mark.parametrize(("place", "right"), [("left", LEFT), ("right", RIGHT), ("above", TOP), ("below", BOTTOM)])
@pytest.mark.parametrize("box", [LEFT, RIGHT, TOP, BOTTOM])
@pytest.mark.parametrize("form", ["Add [blue ball] on the [{}] of [red box]", "Change the position of [blue ball] to [{}] of [red box]"])
def test_every_place_is_its_own(form, place, right, box):
    before = BOX if "Add" in form else BOX | found(blue_ball=[next(other for other in (LEFT, RIGHT) if other != box)])
    told = verdicts(form.format(place), before, BOX | found(blue_ball=[box]), YES)
    assert [verdict.value for verdict in told] == [box == right] * 3


@pytest.mark.parametrize(("removed", "theirs"), [(True, 0), (False, 1)])
def test_beside_what_was_removed_before(removed, theirs):
    """The reference is looked for in the input, from which it is gone: only a removal that failed lets them score."""
    script = {0: BOX, 1: NOTHING if removed else BOX, 2: found(blue_ball=[LEFT])}
    told = verdicts(ADD, None, None, YES, pictures=3, detector=fakes.Detector(script))
    assert [verdict.value for verdict in told] == [1, theirs, theirs]


def test_edit_r2_reads_the_whole_output_and_edival_the_carrier_s_place():
    class ByShape(Judge):
        def ask(self, pictures, question):
            return super().ask(pictures, question) if question.kind == "read_text" or len(pictures[0]) == SIDE else "nothing here"

    assert [v.value for v in verdicts(TEXT, SIGN, SIGN, ByShape(texts=(["K"], ["L"])))] == [1, 1, 0]
    flat = found(sign=[(0.4, 0.4, 0.6, 0.4001)])  # no pixel high
    assert [v.value for v in verdicts(TEXT, flat, SIGN, read(["K"], ["L"]))] == [1, 1, 0]


def test_edival_sees_512_pixels_a_side_and_edit_r2_what_there_is():
    class Measures(fakes.Detector):
        def detect(self, pixels, phrases):
            seen.append(pixels.shape[:2])
            return super().detect(pixels, phrases)

    detector, pictures = Measures({0: BOX, 1: NOTHING}), [np.full((40, 20, 3), number, np.uint8) for number in (0, 1)]
    for arithmetic, size in ((EDIT_R2, (40, 20)), (EDIVAL, (512, 512))):
        seen = []
        reward = CompatInstructionFollowing(detector, YES, arithmetic)
        assert reward.score(fakes.episode([fakes.turn("subject_remove", REMOVE)], pictures)).value == 1 and set(seen) == {size}


def test_names_reach_the_detector_in_small_letters_without_dots():
    asked = []

    class Listens(fakes.Detector):
        def detect(self, pixels, phrases):
            asked.extend(phrases)
            return []

    reward = CompatInstructionFollowing(Listens({}), YES, EDIT_R2)
    reward.score(fakes.episode([fakes.turn("subject_remove", "Remove [Dr. Who Doll ]")], [0, 1]))
    assert set(asked) == {"dr who doll"}


@pytest.mark.parametrize("arithmetic", [EDIT_R2, EDIVAL], ids=lambda arithmetic: arithmetic.name)
@pytest.mark.parametrize("formatted", [ADD, REMOVE, REPLACE, TEXT, POSITION, COUNT, COLOR, MATERIAL, TEXT_ADD, BACKGROUND])
def test_an_outage_is_never_a_score(arithmetic, formatted):
    """Theirs made 0 of it, 0.5, or 1 where the second detection of a removal failed."""

    class LosesTheOutput(fakes.Detector):
        def detect(self, pixels, phrases):
            if fakes.number_of(pixels) == 1:
                raise ConnectionError("detector is down")
            return super().detect(pixels, phrases)

    kind = next(kind for words, kind in TYPES.items() if words in formatted)
    before = BOX | SIGN | BALL | found(box=[MIDDLE], ball=[MIDDLE])
    everything = fakes.Detector({0: before, 1: before | found(blue_ball=[at(0.4, side=0.2)])})
    asks = kind not in ("subject_remove", "count_change") and not (kind == "position_change" and arithmetic is EDIT_R2)
    looks = (
        kind not in ("color_alter", "material_alter")
        and formatted not in (TEXT_ADD,)
        and (arithmetic, kind) != (EDIT_R2, "background_change")
    )
    episode = fakes.episode([fakes.turn(kind, formatted, instruction=KEEPING)], [np.full((SIDE, SIDE, 3), n, np.uint8) for n in (0, 1)])
    if asks:
        reward = CompatInstructionFollowing(everything, fakes.BrokenAnswerer(), arithmetic)
        assert suite.verdict_of(reward, episode).status is Status.SERVICE_ERROR
    if looks and not (arithmetic is EDIT_R2 and formatted == TEXT):  # which looks at the input alone
        reward = CompatInstructionFollowing(LosesTheOutput({0: before}), YES, arithmetic)
        assert suite.verdict_of(reward, episode).status is Status.SERVICE_ERROR


def test_votes_are_averaged_and_boxes_are_looked_for_once():
    class Counts(fakes.Detector):
        calls = 0

        def detect(self, pixels, phrases):
            self.calls += 1
            return super().detect(pixels, phrases)

    detector = Counts({0: BOX, 1: BALL})
    answerer = fakes.Answerer({"r2_replaced": ["Yes", "no", "eyes", "no"]})
    reward = CompatInstructionFollowing(detector, answerer, EDIT_R2, votes=4)
    verdict = reward.score(fakes.episode([fakes.turn("subject_replace", REPLACE)], [0, 1]))
    assert verdict.value == 0.5 and verdict.detail["votes_r2_replaced"] == [True, False, True, False] and detector.calls == 2
    with pytest.raises(ValueError, match="ask at least once"):
        CompatInstructionFollowing(detector, answerer, EDIT_R2, votes=0)


def test_counting_drops_the_later_of_two_not_the_worse():
    boxes = [at(0.5), beside(at(0.5), 0.85), beside(beside(at(0.5), 0.85), 0.85)]
    assert counted(boxes) == 2, "the third overlaps the second, which is gone"
    assert counted([]) == 0


def test_plurals_lose_their_endings_and_more():
    assert [singular(name) for name in ("boxes", "shoes", "trees", "bus", "glass", "ball", "s")] == [
        "box",
        "sho",
        "tre",
        "bu",
        "glas",
        "ball",
        "",
    ]


def test_every_question_names_what_it_asks_about():
    fields = {name: f"<{name}>" for name in ("instruction", "object", "value", "old", "new", "attribute", "name")}
    for kind, text in TEXTS.items():
        if kind != "r2_prefix":
            told = text(fields)
            assert ("yes" in told.lower()) == (kind not in ("free_text", "ev_core_noun")) and ("<" in told) == (kind != "free_text")
