"""Dialogues: every edit possible and visible, words as promised, rules and pronouns right, lists sound."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editr2_jax.data import instruction_grammar
from editr2_jax.records import SUBSETS, TASK_TYPES
from editr2_jax.tabletop import dialogues, edits, proposals, render, scene


def many(subset, count=150, turns=3):
    rng = np.random.default_rng(7)
    return [dialogues.sample(rng, subset, turns=turns) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SUBSETS), st.integers(1, 9))
def test_the_lists_of_a_dialogue_keep_their_invariants(seed, subset, turns):
    dialogue = dialogues.sample(np.random.default_rng(seed), subset, turns=turns)
    played = dialogues.turns_of(dialogue)
    assert len(played) == turns == len(dialogue.scenes) - 1
    before = None
    for t, turn in enumerate(played):
        edit = instruction_grammar.parse(turn.formatted_instruction, turn.task_type)
        assert edit == dialogue.edits[t]
        unchanged, available, known = turn.unchanged_objects, turn.available_objects, turn.all_objects
        assert known and set(unchanged) <= set(known) and set(available) <= set(known)
        for names in (unchanged, available, known):
            assert len(set(names)) == len(names)
        assert turn.bg_consistency == all(other.task_type != "background_change" for other in played[: t + 1])
        assert set(available) <= set(scene.names(dialogue.scenes[t + 1]))
        if before:
            assert set(unchanged) <= set(before.unchanged_objects) and set(known) >= set(before.all_objects)
        assert (turn.intent == "") == (t == 0)
        before = turn


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_edit_changes_the_picture_and_leaves_other_objects_alone(subset):
    for dialogue in many(subset, 60):
        for before, after, edit in zip(dialogue.scenes[:-1], dialogue.scenes[1:], dialogue.edits, strict=True):
            changed = np.abs(render.render(after).astype(int) - render.render(before)).max(-1) > 30
            assert changed.sum() >= 8, edit
            touched = {edit.object, edit.old, edit.carrier, edits.renamed(edit), edit.new}
            for item in before.items:
                if item.name not in touched:
                    assert item in after.items


def test_all_nine_types_are_balanced_in_every_turn_of_plain_dialogues():
    for t in range(3):
        counts = collections.Counter(dialogue.edits[t].task_type for dialogue in many("plain", 450))
        assert set(counts) == set(TASK_TYPES) and min(counts.values()) > 25 and max(counts.values()) < 85


def test_the_rule_stands_once_and_binds_from_the_first_turn():
    for dialogue in many("memory"):
        rule, first = dialogue.rule, dialogue.instructions[0]
        assert first.count(instruction_grammar.RULE_DELIMITER) == 1 and rule.value in first and rule.attribute in first
        assert not any(instruction_grammar.RULE_DELIMITER in later for later in dialogue.instructions[1:])
        assert not any(edit.task_type in proposals.forbidden(rule) for edit in dialogue.edits)
        assert any(edit.task_type not in edits.RULE_EXEMPT for edit in dialogue.edits[1:])
        attribute = "colour" if rule.attribute == "color" else "material"
        for before, after, edit, intent in zip(dialogue.scenes[:-1], dialogue.scenes[1:], dialogue.edits, dialogue.intents, strict=True):
            kept = {id(item): item for item in before.items}.values()
            touched = [item for item in after.items if item not in kept]
            if edit.task_type in edits.RULE_EXEMPT:
                assert not intent or rule.value not in intent or rule.value in edits.natural(edit)
                continue
            assert [getattr(item, attribute) for item in touched] in ([rule.value], []), edit
            assert not intent or rule.value in intent.split()


def test_under_a_rule_no_name_becomes_untrue():
    for dialogue in many("memory"):
        for item in dialogue.scenes[-1].items:
            words = item.name.split()
            assert all(word == item.colour for word in words if word in scene.COLOURS)
            assert all(word == item.material for word in words if word in scene.MATERIALS)


def test_the_three_wordings_of_both_attributes_occur():
    openings = {(dialogue.instructions[0].split()[0], dialogue.rule.attribute) for dialogue in many("memory", 80)}
    assert len(openings) == 6


def test_chains_and_their_pronouns():
    drawn = many("understanding", 300)
    assert {tuple(edit.task_type for edit in dialogue.edits) for dialogue in drawn} == set(dialogues.CHAINS)
    for dialogue in drawn:
        subject = ""
        for t, (edit, words) in enumerate(zip(dialogue.edits, dialogue.instructions, strict=True)):
            spoken = {"it", "its", "them", "their"} & set(words.split())
            if t == 0 or edit.task_type in ("text_change", "background_change"):
                assert not spoken
            else:
                assert len(spoken) == 1 and edit.object == subject
                assert (scene.find(dialogue.scenes[t], subject).count > 1) == bool(spoken & {"them", "their"})
                assert subject in dialogue.intents[t]
            if edit.task_type not in ("text_change", "background_change"):
                subject = edits.renamed(edit)


def test_intents_by_hand():
    parse = instruction_grammar.parse
    teal, wooden = edits.Rule("color", "teal"), edits.Rule("material", "wooden")
    add = parse("Add [ball] on the [left] of [red box]", "subject_add")
    assert dialogues.intent_of(add, teal) == "Add teal ball on the left of red box"
    assert dialogues.intent_of(add, None) == "Add ball on the left of red box"
    assert dialogues.intent_of(parse("Replace [box] with [blue ring]", "subject_replace"), wooden) == "Replace box with wooden blue ring"
    count = parse("Change the count of [ball] to [3]", "count_change")
    assert dialogues.intent_of(count, teal) == "Change the count of ball to 3 and make them teal"
    assert dialogues.intent_of(parse("Remove [ball]", "subject_remove"), teal) == "Remove ball"
    text = parse("Add text '[K]' on the image", "text_change")
    assert dialogues.intent_of(text, teal) == "Add text 'K' on the image and make it teal"


def test_what_stays_is_listed_for_some_background_edits():
    words = [w for dialogue in many("plain") for w in dialogue.instructions if w.startswith("Change the background")]
    listed = [w for w in words if ", remain the " in w and w.endswith(" unchanged")]
    assert 0.5 < len(listed) / len(words) < 0.95


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("turns", [1, 2, 5, 20])
def test_any_number_of_turns(subset, turns):
    assert len(dialogues.sample(np.random.default_rng(turns), subset, turns=turns).instructions) == turns


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="plain, memory, understanding"):
        dialogues.sample(np.random.default_rng(0), "cm")
    with pytest.raises(ValueError, match="at least one turn"):
        dialogues.sample(np.random.default_rng(0), "plain", turns=0)
