"""Score records by hand, as `score` writes them."""

from editr2_jax.evaluation.benchmarks import measures

T3 = ("color_alter", "text_change", "subject_remove")


def record(session, turn, *, subset="plain", task_type=None, scores=None, status=None, detail=None, bg=True, each=None):
    """One turn. scores: reward -> value, None for a verdict that does not apply unless `status` says otherwise."""
    scores = {"if": 1.0} if scores is None else scores
    told = {name: "not_applicable" if value is None else "ok" for name, value in scores.items()} | (status or {})
    made = {"session": session, "subset": subset, "turn": turn, "task_type": task_type or T3[turn % 3], "instruction": f"do {turn}"}
    made |= {"intent": None, "bg_consistency": bg, "scores": scores, "status": told, "reward": 0.5, "changed": 0.0}
    made |= {"detail": {name: {} for name in scores} | (detail or {})}
    return made | ({} if each is None else {"each": each})


def dialogue(session, ifs, *, gas=None, **more):
    """A dialogue by its scores per turn; None in `ifs` is a verdict that could not be given."""
    found = []
    for turn, value in enumerate(ifs):
        scores, status = {"if": value}, {"if": "ok" if value is not None else "service_error"}
        if gas is not None:
            scores["ga"], status["ga"] = gas[turn], "ok" if gas[turn] is not None else "judge_format_error"
        found.append(record(session, turn, scores=scores, status=status, **more))
    return found


def cell(board, table, row, column):
    """A cell of a leaderboard or of a list of tables."""
    tables = board["tables"] if isinstance(board, dict) else board
    lines = next(found["rows"] for found in tables if found["name"] == table)
    return next(line for line in lines if line["name"] == row)["cells"][column]


def tables(module, records, **options):
    board = measures.layout(records)
    return module.tables(board, measures.measure(board, draws=options.pop("draws", 50), **options))
