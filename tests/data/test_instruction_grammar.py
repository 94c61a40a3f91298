"""The grammar: nine forms, anchored at both ends, and nothing raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.data import instruction_grammar as grammar
from editr2_jax.data.instruction_grammar import Edit
from editr2_jax.records import TASK_TYPES

SLOT = st.text(st.characters(exclude_characters="]"), min_size=1, max_size=12).filter(str.strip)
PLACE = st.sampled_from(grammar.PLACES)
EDITS = st.one_of(
    st.builds(Edit, task_type=st.just("subject_add"), object=SLOT, place=PLACE, reference=SLOT),
    st.builds(Edit, task_type=st.sampled_from(["subject_add", "subject_remove"]), object=SLOT),
    st.builds(Edit, task_type=st.just("subject_replace"), old=SLOT, new=SLOT),
    st.builds(Edit, task_type=st.sampled_from(["color_alter", "material_alter"]), object=SLOT, value=SLOT),
    st.builds(Edit, task_type=st.just("text_change"), old=st.one_of(st.just(""), SLOT), carrier=SLOT, new=SLOT),
    st.builds(Edit, task_type=st.just("text_change"), new=SLOT),
    st.builds(Edit, task_type=st.just("position_change"), object=SLOT, place=PLACE, reference=SLOT),
    st.builds(Edit, task_type=st.just("count_change"), object=SLOT, count=st.integers(1, 9)),
    st.builds(Edit, task_type=st.just("background_change"), value=SLOT),
)


@given(EDITS)
def test_what_is_written_is_read_back(edit):
    text = grammar.formatted(edit)
    assert grammar.parse(text, edit.task_type) == edit
    assert grammar.parse(text + " now", edit.task_type) is None and grammar.parse("Please " + text, edit.task_type) is None


@given(st.one_of(st.text(), st.none(), st.integers()), st.one_of(st.sampled_from(TASK_TYPES), st.text(), st.none()))
def test_nothing_raises(text, task_type):
    assert grammar.parse(text, task_type) is None or text[0] in "ARC"


@pytest.mark.parametrize(
    ("task_type", "formatted", "edit", "natural"),
    [
        (
            "subject_add",
            "Add [ball] on the [left] of [red box]",
            Edit(task_type="subject_add", object="ball", place="left", reference="red box"),
            "Add ball on the left of red box",
        ),
        (
            "text_change",
            "Replace the text '[it's {K}]' on [sign] with '[\n]x[]'",
            None,
            None,
        ),
        (
            "text_change",
            "Replace the text '[it's {K}]' on [sign] with '[x[]'",
            Edit(task_type="text_change", old="it's {K}", carrier="sign", new="x["),
            "Replace the text 'it's {K}' on sign with 'x['",
        ),
        (
            "position_change",
            "Change the position of [sign] to [above] of [ball]",
            Edit(task_type="position_change", object="sign", place="above", reference="ball"),
            "Change the position of sign to above of ball",
        ),
        (
            "count_change",
            "Change the count of [ball] to [3]",
            Edit(task_type="count_change", object="ball", count=3),
            "Change the count of ball to 3",
        ),
    ],
)
def test_by_hand(task_type, formatted, edit, natural):
    assert grammar.parse(formatted, task_type) == edit
    if edit:
        assert grammar.natural(edit) == natural


@pytest.mark.parametrize(
    ("task_type", "text"),
    [
        ("text_change", "Add text '[]' on the image"),
        ("text_change", "Replace the text '[K]' on [sign] with '[ ]'"),
        ("subject_add", "Add [ball] on the [inside] of [box]"),
        ("subject_add", "Remove [ball]"),
        ("count_change", "Change the count of [ball] to [three]"),
        ("subject_remove", "Remove [ball]\n"),
        ("paint", "Remove [ball]"),
    ],
)
def test_what_is_no_instruction_is_none(task_type, text):
    assert grammar.parse(text, task_type) is None


def test_a_slot_with_a_closing_bracket_is_refused():
    with pytest.raises(ValueError, match="closing bracket"):
        grammar.formatted(Edit(task_type="subject_remove", object="a]b"))
    with pytest.raises(ValueError, match="subject_add"):
        grammar.formatted(Edit(task_type="paint"))


def test_the_rule_is_split_from_the_first_edit():
    assert grammar.split_rule("All teal. With this rule active, Remove ball") == ("All teal.", "Remove ball")
    assert grammar.split_rule("Remove ball") == ("", "Remove ball")


def test_what_is_to_be_kept_is_read_from_the_natural_form():
    assert grammar.kept("Change the background to snow, remain the red box, old cat unchanged") == ("red box", "old cat")
    assert grammar.kept("Keep it red. With this rule active, Change the background to ice, remain the cat unchanged") == ("cat",)
    assert grammar.kept("Change the background to snow") == grammar.kept("Let it remain the way it is") == ()
