"""The strict reading of judges' answers: good, contradictory, truncated and missing ones."""

import json

import pytest

from editr2_jax.rewards import questions
from editr2_jax.rewards.questions import JudgeFormatError, Question


@pytest.mark.parametrize(
    "answer",
    ["yes", "Yes.", " YES \n", '"yes"', "**Yes**", "Yes, the ball is blue now.", "yes\nThe ball is blue.", "yes。", "Yes，是蓝色。"],
)
def test_an_unambiguous_yes_is_yes(answer):
    assert questions.yes_or_no(answer) is True


@pytest.mark.parametrize("answer", ["no", "No.", "NO", "No, it is still red.", "no！"])
def test_an_unambiguous_no_is_no(answer):
    assert questions.yes_or_no(answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        *("", "eyes", "yesterday", "The eyes are blue", "not", "nothing changed", "none", "No problem, the ball is blue", "maybe"),
        *("yes no", "Yes, and no.", "No, wait, yes.", "yes/no", "I think yes", "ye", "The answer is yes", "yes and", "yes，no。"),
    ],
)
def test_anything_else_is_no_decision(answer):
    with pytest.raises(JudgeFormatError):
        questions.yes_or_no(answer)


def entries(*pairs):
    return [{"edit": edit, "rule": rule} for edit, rule in pairs]


def judge_answer(first, *pairs, **more):
    return json.dumps({"reason": "because", "turns": entries(*pairs), "first_failed_turn": first, **more})


def test_a_prefix_answer_is_read_whole():
    answer = questions.prefix_of(judge_answer(2, (True, True), (True, False), (False, True)), turns=3)
    assert (answer.edits, answer.rules) == ((True, True, False), (True, False, True))
    assert answer.first_failed_turn == 2 and answer.reason == "because"


def test_a_judge_may_stop_at_the_first_failure():
    answer = questions.prefix_of(judge_answer(1, (False, True)), turns=3)
    assert answer.edits == (False, False, False) and answer.first_failed_turn == 1


def test_a_fenced_object_is_read():
    assert questions.prefix_of("```json\n" + judge_answer(0, (True, True)) + "\n```", turns=1).first_failed_turn == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "yes",
        judge_answer(0, (True, True), (True, False)),  # contradicts itself
        judge_answer(1, (True, True), (True, False)),
        judge_answer(2, (True, True), (True, True)),
        judge_answer(0, (True, True)),  # an edit is missing although nothing failed
        judge_answer(2, (True, True)),  # stops before the failure it names
        judge_answer(3, (True, True), (True, True)),  # a turn that does not exist
        judge_answer(True, (False, True), (True, True)),
        judge_answer("2", (True, True), (False, True)),
        judge_answer(0, (True, True), (True, True))[:-9],  # truncated
        judge_answer(0, (True, True), (True, True)) + " So the answer is no.",
        judge_answer(0, (True, True), (True, True)) * 2,
        '{"turns": [{"edit": 1, "rule": 1}, {"edit": true, "rule": true}], "first_failed_turn": 0}',
        '{"turns": [{"edit": true}, {"edit": true, "rule": true}], "first_failed_turn": 0}',
        '{"first_failed_turn": 0, "first_failed_turn": 1, "turns": []}',
        "[]",
    ],
)
def test_a_prefix_answer_that_needs_guessing_is_refused(answer):
    with pytest.raises(JudgeFormatError):
        questions.prefix_of(answer, turns=2)


HALVES = [(r"\ud83d", "?"), (r"a \ude00 b", "a ? b"), (r"\ud83d\ude00", "\N{GRINNING FACE}"), (r"\\ud83d", r"\ud83d"), ("é", "é")]


@pytest.mark.parametrize(("escaped", "read"), HALVES)
def test_half_a_character_costs_no_verdict_and_can_be_written(escaped, read):
    """Judges that cut by UTF-16 spell it as an escape, which no cleaning of the answer's text would find."""
    prefix = judge_answer(2, (True, True), (True, False)).replace("because", escaped)
    answer = questions.prefix_of(prefix, turns=2)
    assert (answer.edits, answer.rules, answer.first_failed_turn, answer.reason) == ((True, True), (True, False), 2, read)
    assert questions.grades_of(f'{{"reason": "{escaped}", "grades": [5, 1]}}', turns=2).reason == read
    assert questions.texts_of(f'{{"texts": ["{escaped}", "STOP"], "{escaped}": [{{}}]}}') == [read, "STOP"]
    read.encode()


def test_what_has_no_halves_is_read_as_it_stands():
    told = {"a": [1, 2.5e-300, 10**30, True, None, {"b": "\u2028\x00"}], "c": float("inf")}
    assert repr(questions.json_object(json.dumps(told))) == repr(told)


def test_brackets_without_end_are_no_answer():
    with pytest.raises(JudgeFormatError, match="Wanted one JSON object"):
        questions.prefix_of('{"turns": ' + "[" * 100_000, turns=2)


def test_texts_are_read_and_compared_as_whole_words():
    texts = questions.texts_of('{"texts": ["Open  Daily", "K"]}')
    assert questions.says(texts, "daily") == 1 and questions.says(texts, "open daily") == 1
    assert questions.says(texts, "k") == 1 and questions.says(["Kiosk"], "k") == 0
    with pytest.raises(JudgeFormatError):
        questions.texts_of("K")
    with pytest.raises(JudgeFormatError):
        questions.texts_of('{"texts": "K"}')


def test_votes_survive_a_minority_of_unreadable_answers():
    answers = ["yes", "eyes", "no", "yes"]
    read = questions.votes(lambda question: answers[question.vote], Question("x", {}), count=4, parse=questions.yes_or_no)
    assert read == [True, False, True]
    with pytest.raises(JudgeFormatError):
        questions.votes(lambda question: "eyes" if question.vote else "yes", Question("x", {}), count=3, parse=questions.yes_or_no)
    with pytest.raises(JudgeFormatError):
        questions.votes(lambda question: "hm", Question("x", {}), count=1, parse=questions.yes_or_no)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("added", {"object": "red ball"}),
        ("replaced", {"old": "red ball", "new": "blue box"}),
        ("color", {"object": "red ball", "value": "blue"}),
        ("material", {"object": "red ball", "value": "wooden"}),
        ("background", {"value": "sand"}),
        ("read_text", {"carrier": "white sign"}),
        ("read_text", {"carrier": ""}),
    ],
)
def test_every_prompt_names_what_it_asks_about(kind, fields):
    text = Question(kind, fields).text()
    assert all(value in text for value in fields.values())


def test_the_prefix_prompt_shows_the_meaning_only_where_pronouns_are():
    formatted = "Change the color of [ball] to [red]"
    fields = {"subset": "understanding", "instructions": ("Change its color to red",), "formatted": (formatted,)}
    assert "[ball]" in Question("prefix", fields).text()
    assert "[ball]" not in Question("prefix", {**fields, "subset": "memory"}).text()


@pytest.mark.parametrize("kind", ["prefix", "grades"])
@pytest.mark.parametrize(("language", "said"), [("en", "binds every edit from edit 1 on"), ("zh", "从第 1 次编辑起对每次编辑都有效")])
def test_the_judge_is_told_that_the_rule_binds_the_first_edit(kind, language, said):
    """Where MICE-Bench's wording leaves it open: "all later edits", and "with this rule active"."""
    for subset in ("memory", "understanding", "plain"):
        fields = {"subset": subset, "instructions": ("Paint it",), "formatted": ("[a]",), "task_types": ("x",)}
        assert (said in Question(kind, fields, language=language).text()) == (subset == "memory")


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kinds are added"):
        Question("colour", {}).text()


KINDS = {
    "added": {"object": "red ball"},
    "replaced": {"old": "red ball", "new": "blue box"},
    "color": {"object": "red ball", "value": "blue"},
    "material": {"object": "red ball", "value": "wooden"},
    "background": {"value": "sand"},
    "read_text": {"carrier": "white sign"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_chinese_prompt_names_the_same_things_and_wants_the_same_answer(kind):
    english, chinese = Question(kind, KINDS[kind]), Question(kind, KINDS[kind], language="zh")
    assert all(value in chinese.text() for value in KINDS[kind].values()) and any("一" <= sign <= "鿿" for sign in chinese.text())
    assert ("yes" in chinese.text() and "no" in chinese.text()) == (kind in questions.YES_NO)
    assert english.prompt_hash() != chinese.prompt_hash() and english.prompt_hash() == Question(kind, KINDS[kind], vote=3).prompt_hash()


@pytest.mark.parametrize("subset", ["memory", "understanding", "plain"])
def test_both_languages_ask_for_every_entry_of_the_schema(subset):
    fields = {"subset": subset, "instructions": ("Paint it",), "formatted": ("Change the color of [ball] to [red]",), "task_types": ("x",)}
    for language in questions.LANGUAGES:
        question = Question("prefix", fields, language=language)
        assert all(f'"{name}"' in question.text() for name in questions.answer_schema(question)["properties"])
        assert "Paint it" in question.text() and ("[ball]" in question.text()) == (subset == "understanding")
    assert questions.answer_schema(Question("color", KINDS["color"])) is None


def test_a_language_without_prompts_is_named():
    with pytest.raises(ValueError, match="prompts in en, zh"):
        Question("color", KINDS["color"], language="fr").text()


def test_the_wording_is_that_of_the_kinds_the_language_and_the_version(monkeypatch):
    first = questions.wording(("color", "read_text"))
    assert first == questions.wording(("color", "read_text")) and len(first) == 12
    others = [questions.wording(("color",)), questions.wording(("color", "read_text"), "zh"), questions.wording(("prefix",))]
    monkeypatch.setitem(questions._PREFIX_RULES, "understanding", "Another rule.")
    others.append(questions.wording(("prefix",)))
    monkeypatch.setattr(questions, "PROMPT_VERSION", "another")
    others.append(questions.wording(("color", "read_text")))
    assert len({first, *others}) == 6
