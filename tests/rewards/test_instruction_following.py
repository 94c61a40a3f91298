"""IF: a truth table per task type with scripted boxes and answers. Picture 0 is the input, picture 1 the output."""

import json

import pytest
import reward_fakes as fakes

from editr2_jax.records import Status
from editr2_jax.rewards import instruction_following, suite

LEFT, MIDDLE, RIGHT = (0.0, 0.4, 0.2, 0.6), (0.4, 0.4, 0.6, 0.6), (0.8, 0.4, 1.0, 0.6)
TOP, BOTTOM = (0.4, 0.0, 0.6, 0.2), (0.4, 0.8, 0.6, 1.0)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def found(**names):
    """box lists by name; an underscore is a space; a box alone has confidence 0.9."""
    scored = {name: [item if isinstance(item[0], tuple) else (item, 0.9) for item in boxes] for name, boxes in names.items()}
    return {name.replace("_", " "): boxes for name, boxes in scored.items()}


def judge(task_type, formatted, before, after, answers=None, config=None, **turn):
    answerer = fakes.Answerer(answers)
    settings = config or instruction_following.InstructionFollowingConfig()
    reward = instruction_following.InstructionFollowing(fakes.Detector({0: before, 1: after}), answerer, config=settings)
    verdict = suite.verdict_of(reward, fakes.episode([fakes.turn(task_type, formatted, **turn)], [0, 1]))
    return verdict


def texts(before, after):
    return lambda pictures, fields: json.dumps({"texts": {0: before, 1: after}[pictures[0]]})


ADD = ("subject_add", "Add [blue ball] on the [left] of [red box]")
ADD_FREE = ("subject_add", "Add [blue ball]")
REMOVE = ("subject_remove", "Remove [red box]")
REPLACE = ("subject_replace", "Replace [red box] with [blue ball]")
COLOR = ("color_alter", "Change the color of [red box] to [blue]")
MATERIAL = ("material_alter", "Change the material of [red box] to [wooden]")
TEXT = ("text_change", "Replace the text '[K]' on [sign] with '[L]'")
TEXT_ADD = ("text_change", "Add text '[L]' on the image")
POSITION = ("position_change", "Change the position of [blue ball] to [left] of [red box]")
COUNT = ("count_change", "Change the count of [red box] to [2]")
BACKGROUND = ("background_change", "Change the background to [snow]")
BOX, BALL, NOTHING, SIGN = found(red_box=[MIDDLE]), found(blue_ball=[MIDDLE]), {}, found(sign=[MIDDLE])

TABLE = [
    # add
    (*ADD, BOX, found(red_box=[MIDDLE], blue_ball=[LEFT]), {"added": "yes"}, 1),
    (*ADD, BOX, found(red_box=[MIDDLE], blue_ball=[LEFT]), {"added": "no"}, 0),
    (*ADD, BOX, found(red_box=[MIDDLE], blue_ball=[RIGHT]), {"added": "yes"}, 0),
    (*ADD, BOX, found(red_box=[MIDDLE], blue_ball=[TOP]), {"added": "yes"}, 0),
    (*ADD, BOX, BOX, {"added": "yes"}, 0),
    (*ADD, BOX, found(red_box=[MIDDLE], blue_ball=[(LEFT, 0.29)]), {"added": "yes"}, 0),
    # The ball was there before: nothing was added.
    (*ADD, found(red_box=[MIDDLE], blue_ball=[LEFT]), found(red_box=[MIDDLE], blue_ball=[LEFT]), {"added": "yes"}, 0),
    # The reference moved: the output counts. The reference is gone: its last place counts.
    (*ADD, BOX, found(red_box=[RIGHT], blue_ball=[MIDDLE]), {"added": "yes"}, 1),
    (*ADD, BOX, found(blue_ball=[LEFT]), {"added": "yes"}, 1),
    (*ADD, NOTHING, found(blue_ball=[LEFT]), {"added": "yes"}, 0),
    (*ADD_FREE, BOX, BALL, {"added": "yes"}, 1),
    (*ADD_FREE, BOX, BALL, {"added": "no"}, 0),
    # remove
    (*REMOVE, BOX, NOTHING, {}, 1),
    (*REMOVE, BOX, BOX, {}, 0),
    (*REMOVE, NOTHING, NOTHING, {}, 0),
    (*REMOVE, BOX, found(red_box=[LEFT]), {}, 0),  # only moved
    (*REMOVE, found(red_box=[LEFT, RIGHT]), found(red_box=[RIGHT]), {}, 0),  # one of two
    (*REMOVE, found(red_box=[(MIDDLE, 0.34)]), NOTHING, {}, 0),
    (*REMOVE, found(red_box=[WHOLE]), NOTHING, {}, 0),
    # replace
    (*REPLACE, BOX, BALL, {"replaced": "yes"}, 1),
    (*REPLACE, BOX, BALL, {"replaced": "no"}, 0),
    (*REPLACE, BOX, found(blue_ball=[LEFT]), {"replaced": "yes"}, 0),
    (*REPLACE, BOX, found(blue_ball=[(0.58, 0.4, 0.78, 0.6)]), {"replaced": "yes"}, 0),  # touches, but below the floor
    (*REPLACE, BOX, {**BOX, **BALL}, {"replaced": "yes"}, 0),
    (*REPLACE, NOTHING, BALL, {"replaced": "yes"}, 0),
    # color, material
    (*COLOR, BOX, BOX, {"color": "yes"}, 1),
    (*COLOR, BOX, BOX, {"color": "No."}, 0),
    (*MATERIAL, BOX, BOX, {"material": "yes"}, 1),
    (*MATERIAL, BOX, BOX, {"material": "no"}, 0),
    # text
    (*TEXT, SIGN, SIGN, {"read_text": texts(["K"], ["L"])}, 1),
    (*TEXT, SIGN, SIGN, {"read_text": texts(["K"], ["l"])}, 1),
    (*TEXT, SIGN, SIGN, {"read_text": texts(["K"], ["K"])}, 0),
    (*TEXT, SIGN, SIGN, {"read_text": texts(["K"], ["K", "L"])}, 0),
    (*TEXT, SIGN, SIGN, {"read_text": texts(["K"], ["Lamp"])}, 0),
    (*TEXT, NOTHING, SIGN, {"read_text": texts([], ["L"])}, 0),
    (*TEXT, SIGN, NOTHING, {"read_text": texts(["K"], ["L"])}, 0),
    (*TEXT_ADD, BOX, BOX, {"read_text": texts([], ["L"])}, 1),
    (*TEXT_ADD, BOX, BOX, {"read_text": texts(["L"], ["L"])}, 0),  # it was there before
    (*TEXT_ADD, BOX, BOX, {"read_text": texts(["L"], ["L", "L"])}, 1),
    (*TEXT_ADD, BOX, BOX, {"read_text": texts([], [])}, 0),
    # position
    (*POSITION, found(red_box=[MIDDLE], blue_ball=[RIGHT]), found(red_box=[MIDDLE], blue_ball=[LEFT]), {}, 1),
    (*POSITION, found(red_box=[MIDDLE], blue_ball=[RIGHT]), found(red_box=[MIDDLE], blue_ball=[RIGHT]), {}, 0),
    (*POSITION, found(red_box=[MIDDLE], blue_ball=[RIGHT]), found(red_box=[MIDDLE], blue_ball=[LEFT, RIGHT]), {}, 0),  # copied
    (*POSITION, found(red_box=[MIDDLE], blue_ball=[RIGHT]), found(blue_ball=[LEFT]), {}, 0),
    (*POSITION, found(red_box=[MIDDLE]), found(red_box=[MIDDLE], blue_ball=[LEFT]), {}, 0),
    # Best score first, whatever the order of the list.
    (
        *POSITION,
        found(red_box=[MIDDLE], blue_ball=[RIGHT, BOTTOM]),
        found(red_box=[MIDDLE], blue_ball=[(RIGHT, 0.5), (LEFT, 0.8)]),
        {},
        1,
    ),
    # count
    (*COUNT, BOX, found(red_box=[LEFT, RIGHT]), {}, 1),
    (*COUNT, BOX, BOX, {}, 0),
    (*COUNT, BOX, found(red_box=[LEFT, MIDDLE, RIGHT]), {}, 0),
    (*COUNT, BOX, found(red_box=[LEFT, (LEFT, 0.8), RIGHT]), {}, 1),  # a duplicate is one instance
    (*COUNT, NOTHING, found(red_box=[LEFT, RIGHT]), {}, 0),
    # background
    (*BACKGROUND, BOX, BOX, {"background": "yes"}, 1),
    (*BACKGROUND, BOX, BOX, {"background": "no"}, 0),
    (*BACKGROUND, BOX, NOTHING, {"background": "yes"}, 0),  # an object that must stay is lost
    (*BACKGROUND, BOX, found(red_box=[WHOLE]), {"background": "yes"}, 0),
    (*BACKGROUND, NOTHING, NOTHING, {"background": "yes"}, 1),  # lost by an earlier turn already
]


@pytest.mark.parametrize(("task_type", "formatted", "before", "after", "answers", "wanted"), TABLE)
def test_the_truth_table(task_type, formatted, before, after, answers, wanted):
    verdict = judge(task_type, formatted, before, after, answers, available_objects=("red box",))
    assert verdict.status is Status.OK and verdict.value == wanted, verdict
    json.dumps(dict(verdict.detail))


@pytest.mark.parametrize(("place", "right"), [("left", LEFT), ("right", RIGHT), ("above", TOP), ("below", BOTTOM)])
@pytest.mark.parametrize("box", [LEFT, RIGHT, TOP, BOTTOM])
def test_every_place_is_its_own(place, right, box):
    formatted = f"Add [blue ball] on the [{place}] of [red box]"
    verdict = judge("subject_add", formatted, BOX, found(red_box=[MIDDLE], blue_ball=[box]), {"added": "yes"})
    assert verdict.value == (box == right)


def test_a_background_keeps_what_the_instruction_names_too():
    """An object that an earlier turn added is no part of the annotation's pool any more."""
    said = "Change the background to snow, remain the red box, blue ball, keep them unchanged"
    names = {"available_objects": ("red box",), "all_objects": ("red box", "blue ball", "cat")}
    before = BOX | found(blue_ball=[RIGHT], cat=[LEFT], keep_them=[LEFT])
    for after, lost in ((BOX | found(blue_ball=[RIGHT]), []), (BOX, ["blue ball"]), (found(blue_ball=[RIGHT]), ["red box"])):
        verdict = judge(*BACKGROUND, before, after, {"background": "yes"}, instruction=said, **names)
        assert (verdict.value, verdict.detail["lost"]) == (not lost, lost)
    assert judge(*BACKGROUND, before, BOX, {"background": "yes"}, instruction="Change the background to snow", **names).value == 1


def test_a_count_that_is_there_already_is_nothing_to_measure():
    two = found(red_box=[LEFT, RIGHT])
    assert judge(*COUNT, two, two).status is Status.UNMEASURABLE


def test_a_reference_removed_earlier_is_taken_from_where_it_was_last_seen():
    detector = fakes.Detector({0: BOX, 1: NOTHING, 2: BALL | found(blue_ball=[LEFT])})
    reward = instruction_following.InstructionFollowing(detector, fakes.Answerer({"added": "yes"}))
    verdict = reward.score(fakes.episode([fakes.turn(*REMOVE), fakes.turn(*ADD)], [0, 1, 2]))
    assert verdict.value == 1 and verdict.detail["reference_seen_turns_ago"] == 2


def test_what_was_added_is_no_reference_for_itself():
    """Both new balls answer to "ball"; the one that was there is the reference."""
    add = ("subject_add", "Add [red ball] on the [left] of [ball]")
    before, answers = found(ball=[LEFT]), {"added": "yes"}
    both = found(red_ball=[MIDDLE, RIGHT], ball=[LEFT, MIDDLE, RIGHT])
    assert judge(*add, before, both, answers).value == 0
    painted_over = found(red_ball=[LEFT], ball=[LEFT])
    verdict = judge(*add, found(ball=[MIDDLE]), painted_over, answers)
    assert verdict.value == 1 and verdict.detail["reference_seen_turns_ago"] == 1


@pytest.mark.parametrize(
    ("task_type", "formatted"),
    [
        ("text_change", "Replace the text '[K]' on [sign] with '[]'"),
        ("text_change", "Add text '[]' on the image"),
        ("subject_add", "Please add a ball"),
        ("count_change", "Change the count of [red box] to [many]"),
        ("subject_add", "Add [ball] on the [inside] of [red box]"),
        ("subject_remove", "Thinking: the user wants. Remove [red box]"),
    ],
)
def test_an_instruction_that_cannot_be_parsed_is_an_annotation_error(task_type, formatted):
    assert judge(task_type, formatted, BOX, BOX).status is Status.INVALID_ANNOTATION


def test_an_outage_is_never_a_score():
    for task_type, formatted in (ADD, REMOVE, REPLACE, TEXT, POSITION, COUNT, BACKGROUND):
        reward = instruction_following.InstructionFollowing(fakes.BrokenDetector(), fakes.Answerer())
        episode = fakes.episode([fakes.turn(task_type, formatted, available_objects=("red box",))], [0, 1])
        assert suite.verdict_of(reward, episode).status is Status.SERVICE_ERROR
    reward = instruction_following.InstructionFollowing(fakes.Detector({}), fakes.BrokenAnswerer())
    for task_type, formatted in (COLOR, MATERIAL, TEXT_ADD, BACKGROUND):
        assert suite.verdict_of(reward, fakes.episode([fakes.turn(task_type, formatted)], [0, 1])).status is Status.SERVICE_ERROR


def test_an_unreadable_answer_is_never_a_score():
    assert judge(*COLOR, BOX, BOX, {"color": "eyes"}).status is Status.JUDGE_FORMAT_ERROR
    assert judge(*TEXT_ADD, BOX, BOX, {"read_text": "L"}).status is Status.JUDGE_FORMAT_ERROR


def test_votes_are_averaged_and_kept():
    config = instruction_following.InstructionFollowingConfig(votes=4)
    verdict = judge(*COLOR, BOX, BOX, {"color": ["yes", "no", "yes", "yes"]}, config)
    assert verdict.value == 0.75 and verdict.detail["votes_color"] == [True, False, True, True]


def test_what_was_read_is_kept_with_its_votes():
    """A 0 of a text says which text was read instead."""
    config = instruction_following.InstructionFollowingConfig(votes=2)
    read = {0: "K", 1: "L"}
    kept = judge(*TEXT, SIGN, SIGN, {"read_text": lambda pictures, fields: json.dumps({"texts": [read[pictures[0]]]})}, config)
    assert kept.value == 1 and kept.detail["votes_read_text"] == [True, True]
    assert (kept.detail["texts_input"], kept.detail["texts_output"]) == ([["K"], ["K"]], [["L"], ["L"]])
    answers = ['{"texts": ["L"]}', '{"texts": ["l", "M"]}']
    mixed = judge(*TEXT_ADD, BOX, BOX, {"read_text": lambda pictures, fields: answers[pictures[0]]}, config)
    assert mixed.value == 0 and mixed.detail["votes_read_text"] == [False, False]
    assert (mixed.detail["texts_input"], mixed.detail["texts_output"]) == ([["L"]] * 2, [["l", "M"]] * 2)


def test_the_new_object_called_by_the_old_name_is_not_the_old_one():
    after = found(blue_box=[MIDDLE], red_box=[(MIDDLE, 0.4)])
    assert judge("subject_replace", "Replace [red box] with [blue box]", BOX, after, {"replaced": "yes"}).value == 1
