"""Dialogues about a tabletop scene: edits in words, what they mean, and the scene after each. Any number of turns.

    plain           every turn names its object
    memory          turn 0 states a rule before its edit; the rule binds every turn from turn 0 on
    understanding   later turns say "it", "its", "them", "their" for the object of the turn before, under its new name
Words are few on purpose: a small model has to read them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from editr2_jax.data.instruction_grammar import RULE_DELIMITER, Edit
from editr2_jax.records import SUBSETS, TASK_TYPES, Turn
from editr2_jax.tabletop import edits, proposals
from editr2_jax.tabletop import scene as scenes
from editr2_jax.tabletop.edits import RULE_EXEMPT, VOCABULARY, Pool, Rule
from editr2_jax.tabletop.scene import COLOURS, MATERIALS, Scene

RULES = (  # {value} {attribute}: "teal color", "wooden material"
    "Standing rule: each object that is added or changed must have {value} {attribute}, all else stays.",
    "Keep one rule for all edits: give {value} {attribute} to the object that is added or changed, and only to it.",
    "From now on, every edit must use {value} {attribute} for its object and leave the rest alone.",
)
CHAINS = (  # what the turns of an understanding dialogue do to one object; MICE-Bench's, but remove, add, remove
    ("color_alter", "color_alter", "color_alter"),
    ("subject_replace", "count_change", "background_change"),
    ("subject_add", "material_alter", "color_alter"),
    ("material_alter", "color_alter", "subject_remove"),
    ("subject_add", "color_alter", "subject_remove"),
    ("subject_replace", "color_alter", "subject_remove"),
    ("color_alter", "text_change", "color_alter"),
    ("color_alter", "count_change", "material_alter"),
    ("color_alter", "color_alter", "subject_remove"),
    ("material_alter", "material_alter", "subject_remove"),
    ("position_change", "color_alter", "count_change"),
)
KEEP_CLAUSE = 0.75  # share of background edits that list what has to stay
FULL_NAME = 0.25  # share of a memory dialogue's first objects whose names tell everything
ATTEMPTS = 200  # dialogues begun before giving up; a few are thrown away


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """T turns over T + 1 scenes."""

    subset: str
    scenes: tuple[Scene, ...]  # T + 1: the source, then the ground truth after every turn
    edits: tuple[Edit, ...]
    instructions: tuple[str, ...]  # as the policy reads them
    intents: tuple[str, ...]  # each turn as one self-contained sentence; "" for turn 0
    pools: tuple[Pool, ...]  # after every turn
    rule: Rule | None = None  # of a memory dialogue


def sample(rng: np.random.Generator, subset: str, *, turns: int = 3, grid: tuple[int, int] = (3, 3)) -> Dialogue:
    """A dialogue of that subset. Every edit is possible and changes the picture; types are balanced.

    Raises ValueError for an unknown subset or turns < 1.
    """
    if subset not in SUBSETS:
        raise ValueError(f"There is no subset {subset!r}; the subsets are {', '.join(SUBSETS)}.")
    if turns < 1:
        raise ValueError(f"A dialogue has at least one turn, got turns={turns}.")
    for _ in range(ATTEMPTS):
        draft = _Draft(rng, subset, scenes.sample(rng, grid=grid))
        if subset == "understanding":
            draft.play_chains(turns)
        else:
            draft.play_any(turns)
        if draft.is_sound(turns):
            return draft.finished()
    raise ValueError(f"No {subset} dialogue of {turns} turns on {grid[0]} x {grid[1]} cells in {ATTEMPTS} attempts; ask for fewer turns.")


def turns_of(dialogue: Dialogue, targets: tuple[str, ...] = ()) -> tuple[Turn, ...]:
    """The turns as records. targets: paths of the ground-truth pictures, one per turn, or none."""
    turns, background_kept = [], True
    for t, (edit, pool) in enumerate(zip(dialogue.edits, dialogue.pools, strict=True)):
        background_kept = background_kept and edit.task_type != "background_change"
        turns.append(
            Turn(
                instruction=dialogue.instructions[t],
                formatted_instruction=edits.formatted(edit),
                task_type=edit.task_type,
                bg_consistency=background_kept,
                unchanged_objects=pool.unchanged,
                available_objects=pool.available,
                all_objects=pool.known,
                intent=dialogue.intents[t],
                target=targets[t] if targets else None,
            )
        )
    return tuple(turns)


def intent_of(edit: Edit, rule: Rule | None) -> str:
    """The edit as one sentence that needs no history: names in full, the rule carried out."""
    if rule is None or edit.task_type in RULE_EXEMPT:
        return edits.natural(edit)
    known = VOCABULARY[rule.attribute]
    if edit.task_type == "subject_add":
        return edits.natural(dataclasses.replace(edit, object=edits.rename(edit.object, rule.value, known)))
    if edit.task_type == "subject_replace":
        return edits.natural(dataclasses.replace(edit, new=edits.rename(edit.new, rule.value, known)))
    return f"{edits.natural(edit)} and make {'them' if edit.count > 1 else 'it'} {rule.value}"


def fingerprint(dialogue: Dialogue) -> str:
    """What makes a dialogue itself: words and objects in their cells, without jitter, size and texture. Equal means a duplicate."""
    source = dialogue.scenes[0]
    items = sorted(
        (item.kind, item.name, item.colour, item.material, item.glyph, *sorted(p.cell for p in item.places)) for item in source.items
    )
    return repr((source.background, source.grid, items, dialogue.instructions, [edits.formatted(edit) for edit in dialogue.edits]))


class _Draft:
    """A dialogue being written, turn by turn."""

    def __init__(self, rng: np.random.Generator, subset: str, source: Scene):
        self.rng, self.subset = rng, subset
        self.rule = _draw_rule(rng, source) if subset == "memory" else None
        source = _named_for(self.rule, source, rng) if self.rule else source
        self.scenes, self.pools = [source], [edits.start_pool(source)]
        self.edits: list[Edit] = []
        self.instructions: list[str] = []

    def play_any(self, turns: int) -> None:
        """Turns of any type, each type as likely as the others where the scene allows it."""
        weights = _weights(self.rule)
        for _ in range(turns):
            order = sorted(weights, key=lambda task_type: self.rng.random() ** (1.0 / weights[task_type]), reverse=True)
            for task_type in order:
                edit = proposals.propose(self.scenes[-1], self.pools[-1], task_type, self.rng, rule=self.rule)
                if edit:
                    self._take(edit, self._explicit(edit))
                    break

    def play_chains(self, turns: int) -> None:
        """Chains about one object each, the next one begun when a chain is over."""
        while len(self.edits) < turns:
            for chain in scenes.shuffled(self.rng, CHAINS):
                if self._play_chain(chain[: turns - len(self.edits)]):
                    break
            else:  # nothing is left for a chain: anything else, named in full
                before = len(self.edits)
                self.play_any(1)
                if len(self.edits) == before:
                    return

    def is_sound(self, turns: int) -> bool:
        """All turns are there, and a rule matters after turn 0."""
        if len(self.edits) != turns:
            return False
        return self.rule is None or turns == 1 or any(edit.task_type not in RULE_EXEMPT for edit in self.edits[1:])

    def finished(self) -> Dialogue:
        instructions = list(self.instructions)
        if self.rule:
            wording = scenes.pick(self.rng, RULES).format(value=self.rule.value, attribute=self.rule.attribute)
            instructions[0] = f"{wording} {RULE_DELIMITER}{instructions[0]}"
        return Dialogue(
            subset=self.subset,
            scenes=tuple(self.scenes),
            edits=tuple(self.edits),
            instructions=tuple(instructions),
            intents=("", *(intent_of(edit, self.rule) for edit in self.edits[1:])),
            pools=tuple(self.pools[1:]),
            rule=self.rule,
        )

    def _take(self, edit: Edit, instruction: str) -> None:
        self.scenes.append(edits.apply(self.scenes[-1], edit, self.rng, rule=self.rule))
        self.pools.append(edits.update_pool(self.pools[-1], edit))
        self.edits.append(edit)
        self.instructions.append(instruction)

    def _play_chain(self, chain: tuple[str, ...]) -> bool:
        """Plays the whole chain, or nothing."""
        begun, subject = len(self.edits), ""
        for task_type in chain:
            edit = proposals.propose(self.scenes[-1], self.pools[-1], task_type, self.rng, only=subject)
            if edit is None or (not subject and scenes.SIGN in (edit.object, edit.carrier)):
                del self.scenes[begun + 1 :], self.pools[begun + 1 :], self.edits[begun:], self.instructions[begun:]
                return False
            several = bool(subject) and scenes.find(self.scenes[-1], subject).count > 1
            self._take(edit, _pronoun(edit, several) if subject else self._explicit(edit))
            if task_type not in ("text_change", "background_change"):
                subject = edits.renamed(edit)
        return True

    def _explicit(self, edit: Edit) -> str:
        if edit.task_type != "background_change" or self.rng.random() >= KEEP_CLAUSE:
            return edits.natural(edit)
        return f"{edits.natural(edit)}, remain the {', '.join(scenes.names(self.scenes[-1]))} unchanged"


def _pronoun(edit: Edit, several: bool) -> str:
    """The natural sentence with a pronoun for the object; text and background edits do not speak of it."""
    its, it = ("their", "them") if several else ("its", "it")
    match edit.task_type:
        case "color_alter":
            return f"Change {its} color to {edit.value}"
        case "material_alter":
            return f"Change {its} material to {edit.value}"
        case "count_change":
            return f"Change {its} count to {edit.count}"
        case "subject_remove":
            return f"Remove {it}"
        case _:
            return edits.natural(edit)


def _draw_rule(rng: np.random.Generator, source: Scene) -> Rule:
    """A rule whose look the scene does not show yet, if there is one."""
    if rng.random() < 0.5:
        shown, attribute, values = {item.colour for item in source.items}, "color", COLOURS
    else:
        shown, attribute, values = {item.material for item in source.items}, "material", MATERIALS[1:]
    return Rule(attribute, scenes.pick(rng, [value for value in values if value not in shown] or values))


def _named_for(rule: Rule, source: Scene, rng: np.random.Generator) -> Scene:
    """The same picture with most names silent about the rule's attribute, so that they stay true when the rule acts."""
    items = []
    for item in source.items:
        words = [word for word in item.name.split() if word not in VOCABULARY[rule.attribute]]
        items.append(item if rng.random() < FULL_NAME else dataclasses.replace(item, name=" ".join(words)))
    return dataclasses.replace(source, items=tuple(items))


def _weights(rule: Rule | None) -> dict[str, float]:
    """How likely each type is to be tried first. What one kind of rule forbids, the other one draws twice as often."""
    weights = dict.fromkeys(TASK_TYPES, 1.0)
    weights["position_change"] = 1.15  # not every scene allows one
    if rule is None:
        return weights
    for task_type in proposals.forbidden(Rule("material" if rule.attribute == "color" else "color", "")):
        weights[task_type] *= 2.0
    return {task_type: weight for task_type, weight in weights.items() if task_type not in proposals.forbidden(rule)}
