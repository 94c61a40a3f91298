"""Flags by hand, and those of the public data: found here, they are what its flag file tells."""

import collections
import json
import time

import pytest

from editr2_jax.data import instruction_grammar, quality_flags
from editr2_jax.data.quality_flags import Flag
from editr2_jax.data.session_source import BadSessions, SessionFolder

SPLITS = (("cm", "train"), ("cm", "test"), ("cu", "train"), ("cu", "test"))
FOUND = {  # sessions or turns of SPLITS; source: the table of known defects
    "empty_text_target": (95, 7, 0, 0),
    "leaked_generator_text": (2, 2, 0, 1),
    "reference_removed_earlier": (0, 0, 67, 29),
    "no_unchanged_object": (731, 144, 227, 133),
    "no_pronoun": (0, 0, 194, 78),
    "constraint_never_clearly_applicable": (190, 29, 0, 0),
    "two_colour_words_in_target": (127, 35, 176, 85),
}


@pytest.mark.slow
def test_the_defects_of_the_public_data_are_found_exactly(mice_bench):
    told = collections.defaultdict(set)
    for line in (mice_bench / quality_flags.FILE).read_text().splitlines():
        record = json.loads(line)
        told[record["split"]] |= {(record["row"], name, turn) for name, turn in record["flags"] if name in FOUND}
    for column, (name, split) in enumerate(SPLITS):
        seen = set()
        for row, session in enumerate(SessionFolder(mice_bench / name, split, drop_invalid=False, pictures=False).sessions):
            edits = [instruction_grammar.parse(turn.formatted_instruction, turn.task_type) for turn in session.turns]
            seen |= {(row, str(flag.name), flag.turn + 1) for flag in quality_flags.of(session, edits)}
        assert seen == told[f"{name}/{split}"]
        counts = collections.Counter(flag for _, flag, _ in seen)
        assert {flag: counts[flag] for flag in FOUND} == {flag: numbers[column] for flag, numbers in FOUND.items()}


@pytest.mark.slow
def test_the_flag_file_is_applied_and_parsing_is_quick(mice_bench):
    train = SessionFolder(mice_bench / "cm", "train", pictures=False)
    test = SessionFolder(mice_bench / "cm", "test", pictures=False)
    assert (len(train), train.dropped, len(test), test.dropped, len(test.invalid)) == (1850 - 97, 97, 360, 0, 9)
    added = [i for i, flags in test.flags.items() if any(flag.name is Flag.ADDED_AFTER_FIRST_RELEASE for flag in flags)]
    assert len(added) == 97
    texts = [(turn.formatted_instruction, turn.task_type) for session in (*train.sessions, *test.sessions) for turn in session.turns]
    start = time.process_time()
    assert sum(instruction_grammar.parse(*text) is None for text in texts) == 7
    assert time.process_time() - start < 5


def flagged(folder, new_record, *lines, **changes):
    folder.sessions(2)
    folder.lines(new_record(0, **changes), new_record(1), split="test")
    (folder.path / quality_flags.FILE).write_text("\n".join(lines))
    return SessionFolder(folder.path, "test")


def test_what_the_file_tells_joins_what_is_seen(folder, new_record):
    told = '{"split": "test", "row": 1, "flags": [["leaked_generator_text", 2], ["added_after_first_release", 0]]}'
    other = '{"split": "train", "row": 7, "flags": []}'
    source = flagged(folder, new_record, told, other, unchanged_objects=[["star"], [], []])
    assert [(flag.name, flag.turn) for flag in source.flags["test/000"]] == [(Flag.NO_UNCHANGED_OBJECT, 1), (Flag.NO_UNCHANGED_OBJECT, 2)]
    assert [(flag.name, flag.turn) for flag in source.flags["test/001"]] == [
        (Flag.ADDED_AFTER_FIRST_RELEASE, -1), (Flag.LEAKED_GENERATOR_TEXT, 1),
    ]  # fmt: skip
    (problem,) = source.invalid["test/001"]
    assert str(problem).endswith("quality_flags.jsonl:1: test/001, turn 1 is flagged leaked_generator_text; repair it and remove the flag.")
    assert len(source) == 2 and len(SessionFolder(folder.path, "test", drop_invalid=True)) == 1


def test_a_line_of_flags_comes_back():
    flags = (quality_flags.QualityFlag(-1, Flag.NO_PRONOUN), quality_flags.QualityFlag(2, Flag.EMPTY_TEXT_TARGET))
    line = quality_flags.to_line("test", 3, flags)
    assert quality_flags.read([(1, line.encode())], "f", ["test"]) == ({3: (1, flags)}, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"quality_flags\.jsonl:1: not JSON"),
        ('{"split": "test", "row": -1, "flags": []}', "not a line of flags; write"),
        ('{"split": "test", "row": 0, "flags": [["no_pronoun"]]}', r"flag \[\"no_pronoun\"\] is no \[FLAG, TURN\]"),
        ('{"split": "test", "row": 0, "flags": [["no_pronouns", 2]]}', r"no flag 'no_pronouns' \(the nearest is no_pronoun\)"),
        ('{"split": "test", "row": 2, "flags": []}', "row 2 of test is not there, .* has 2 lines; the flags are those of another file"),
        (
            '{"split": "test", "row": 1, "flags": [["no_pronoun", 4]]}',
            r"quality_flags\.jsonl:1: no_pronoun is told of turn 4, but test/001 has 3 turns; turns count from 1",
        ),
        ('{"split": "test", "row": 0, "flags": []}\n' * 2, "row 0 of test is already that of line 1"),
    ],
)
def test_a_bad_flag_file_is_named_by_line(folder, new_record, line, message):
    with pytest.raises(BadSessions, match=message):
        flagged(folder, new_record, line)


def test_generator_text_is_told_where_it_enters(folder, new_record):
    name = "ball\nthought"
    formatted = [f"Add [{name}]", f"Change the color of [{name}] to [red]", "Change the background to [grass]"]
    folder.sessions(1)
    folder.lines(new_record(formatted_instruction=formatted), split="test")
    source = SessionFolder(folder.path, "test")
    assert [(flag.name, flag.turn) for flag in source.flags["test/000"]] == [(Flag.LEAKED_GENERATOR_TEXT, 0)]
    assert "turn 0" in str(source.invalid["test/000"][0]) and "words of its generator" in str(source.invalid["test/000"][0])
