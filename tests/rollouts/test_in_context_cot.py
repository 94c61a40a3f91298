import pytest
from hypothesis import given
from hypothesis import strategies as st

from editr2_jax.records import SUBSETS, TASK_TYPES
from editr2_jax.rollouts import in_context_cot
from editr2_jax.rollouts.in_context_cot import IntentPrompt

SAID = "paint it"  # the instruction that stands in


@pytest.mark.parametrize(
    ("written", "intent"),
    [
        ("<think>the box is meant</think>paint the box", "paint the box"),
        ("<think></think> paint\n  the\tbox \n", "paint the box"),  # white space is one space
        ("no opening tag</think>paint the box", "paint the box"),
        ("<think>a</think>b</think>paint the box", "paint the box"),  # what follows the last tag
        ("<think>a<think>b</think>paint <b>it</b>", "paint <b>it</b>"),
    ],
)
def test_the_intent_is_what_follows_the_last_closing_tag(written, intent):
    assert in_context_cot.parse(written, SAID) == (intent, False)


@pytest.mark.parametrize("written", ["", "  ", "paint it", "<think>paint it", "<think></think> \n\t", "</think>b</think>"])
def test_without_a_closing_tag_or_words_behind_it_the_instruction_stands_in(written):
    assert in_context_cot.parse(written, SAID) == (SAID, True)


@given(st.text(), st.text().filter(lambda text: "</think>" not in text and text.split()))
def test_whatever_is_thought_the_answer_behind_it_is_found(thoughts, intent):
    assert in_context_cot.parse(f"{thoughts}</think>{intent}", SAID) == (" ".join(intent.split()), False)


@given(st.text(min_size=1).filter(lambda text: "</think>" not in text and text.split()))
def test_a_taught_answer_is_read_back(intent):
    assert in_context_cot.parse(in_context_cot.answer(intent), SAID) == (" ".join(intent.split()), False)


def test_the_question_lists_the_instructions_so_far_in_order_and_none_to_come():
    prompt = IntentPrompt(question="Before:\n{history}\nNow: {instruction}", entry="{number}) {instruction}")
    said = ["add a ball", "paint it", "move it", "remove it"]
    assert in_context_cot.question(prompt, said, 2) == "Before:\n1) add a ball\n2) paint it\nNow: move it"


@given(st.lists(st.text(min_size=1) | st.sampled_from(["{instruction}", "{history}", "{number}"]), min_size=2, max_size=5), st.data())
def test_every_instruction_up_to_the_current_one_is_in_the_question(said, data):
    turn = data.draw(st.integers(1, len(said) - 1))
    asked = in_context_cot.question(IntentPrompt(), said, turn)
    assert all(text in asked for text in said[: turn + 1])


def test_braces_in_an_instruction_stay_as_they_are():
    prompt = IntentPrompt(question="{history} Now: {instruction}", entry="{number}. {instruction}")
    assert in_context_cot.question(prompt, ["write {number}", "write '{x}' 100%"], 1) == "1. write {number} Now: write '{x}' 100%"
    assert in_context_cot.question(prompt, ["write {instruction}", "{history}"], 1) == "1. write {instruction} Now: {history}"


def test_the_question_does_not_tell_what_is_being_tested():
    """It is a function of the instructions alone, and its own words name no subset and no kind of edit."""
    prompt = IntentPrompt()
    frame = f"{prompt.system} {prompt.question} {prompt.entry}".lower()
    assert not [word for word in (*SUBSETS, *TASK_TYPES, "rule", "pronoun", "bench") if word.replace("_", " ") in frame]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": "Now: {instruction}"}, r"IntentPrompt.question lacks \{history\}"),
        ({"question": "what now?"}, r"IntentPrompt.question lacks \{history\}, \{instruction\}"),
        ({"entry": "{number}."}, r"IntentPrompt.entry lacks \{instruction\}"),
    ],
)
def test_a_prompt_that_would_hide_the_edit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        IntentPrompt(**fields)
