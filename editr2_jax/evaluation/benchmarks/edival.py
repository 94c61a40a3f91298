"""EdiVal-Bench: plain sessions of three turns, drawn turn by turn (multi) or each prefix at once (single).

    IF success   share of dialogues with IF_1 = ... = IF_t = 1; in a single pass, that all instructions 1..t hold in picture t
    IF marginal  mean of IF_t, all types pooled; in a single pass of the instruction t in picture t
    CC           by data set: mean of (mean object part) and (mean background part); by image: mean over pictures of their parts' mean;
                 both over turns whose background is to stay, which leaves 507, 452 and 380 of the 572 published ones
    overall      sqrt(IF success x CC)
The paper's formula averages CC by image; by data set is how its published table was reconstructed. The paper's third score, visual quality,
needs a model of its own and is no part of the overall number; it is not computed here. Source: EdiVal (arXiv 2509.13399) and its evaluator.
"""

from __future__ import annotations

from editr2_jax.evaluation.benchmarks import measures
from editr2_jax.evaluation.benchmarks.measures import GRADE, Board, Column, Measure, Selection, Table, average, overall
from editr2_jax.records import TASK_TYPES

NAME, TITLE = "edival_bench", "EdiVal-Bench"

SUCCESS = Column(
    name="if_success", label="IF success", about="all instructions up to this turn followed", parts=("if_so_far",), reach="so_far"
)
MARGINAL = Column(name="if_marginal", label="IF marginal", about="instruction of this turn followed", parts=("if",))
ASKED = Column(name="if_asked", label="IF of all asked", about="mean over the instructions 1..t in picture t", parts=("if_asked",))
CC_DATASET = Column(
    name="cc_dataset", label="CC by data set", about="mean of mean object and mean background part", parts=("object", "background"),
    combine=average, due="cc", kept=True,
)  # fmt: skip
CC = Column(name="cc", label="CC of the reward", about="as in training, whatever the background may do", parts=("cc",), due="cc")
CC_IMAGE = Column(
    name="cc_image", label="CC by image", about="mean over pictures of the mean of their parts", parts=("cc_image",), due="cc", kept=True
)
OBJECT = Column(name="object", label="object part", about="likeness of untouched objects", parts=("object",), due="cc", kept=True)
BACKGROUND = Column(
    name="background", label="background part", about="likeness of the background", parts=("background",), due="cc", kept=True
)
OVERALL = Column(
    name="overall", label="overall", about="sqrt(IF success x CC by data set)", parts=("if_so_far", "object", "background"),
    combine=overall, reach="so_far",
)  # fmt: skip
OVERALL_IMAGE = Column(
    name="overall_image", label="overall by image", about="sqrt(IF success x CC by image)", parts=("if_so_far", "cc_image"),
    combine=overall, reach="so_far",
)  # fmt: skip


def tables(board: Board, cells: Measure) -> list[Table]:
    """Per turn, and IF per task type."""
    turns = [(f"T{turn + 1}", Selection(turn=turn)) for turn in range(board.turns)]
    columns = [SUCCESS, MARGINAL, *([ASKED] if board.single else []), CC_DATASET, CC_IMAGE, OVERALL, OVERALL_IMAGE, OBJECT, BACKGROUND, CC]
    columns.append(GRADE)
    columns = [column for column in columns if measures.has(board, column) and ("cc" in board.scores or column.due != "cc")]
    columns = [column for column in columns if "cc" in board.scores or "overall" not in column.name]
    how = "each prefix from the source at once (single pass)" if board.single else "turn by turn (multi pass)"
    names = [name for name in TASK_TYPES if name in set(board.task_types[board.played].tolist())]
    types = [(name, Selection(task_types=(name,))) for name in names]
    type_turns = [(f"{name}, T{turn + 1}", Selection(turn=turn, task_types=(name,))) for name in names for turn in range(board.turns)]
    type_turns = [(name, chosen) for name, chosen in type_turns if chosen.mask(board).any()]
    note = f"Drawn {how}. CC looks at turns whose background is to stay."
    found = [measures.table("turn", "By turn", "turn", turns, columns, cells, note=note)]
    if "if" in board.scores:
        found.append(measures.table("task_type", "IF by task type", "task type", types, [MARGINAL], cells))
        found.append(measures.table("type_turn", "IF by task type and turn", "task type and turn", type_turns, [MARGINAL], cells))
    return found
