"""Benchmark tables as text: Markdown, and LaTeX with booktabs. Shares are told in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Cell = Mapping[str, Any]
Table = Mapping[str, Any]


def value(cell: Cell | None) -> str:
    """The number of a cell alone; – where there is none."""
    if cell is None:
        return "–"
    if "mean" in cell:
        return "–" if cell["mean"] is None else f"{100 * cell['mean']:.2f}"
    return f"{100 * cell['share']:.1f} ({cell['count']})" if "share" in cell else str(cell["count"])


def spread(cell: Cell | None) -> str:
    """[low, high] in percent; empty where there is no interval."""
    if cell is None or cell.get("low") is None:
        return ""
    return f"[{100 * cell['low']:.2f}, {100 * cell['high']:.2f}]"  # as many digits as the mean: it lies inside


def counts(cell: Cell | None) -> str:
    """How many verdicts a mean stands on, of how many that are due; empty where nothing is missing to tell."""
    if cell is None or "n" not in cell or cell.get("due") == 0:
        return ""
    return f"{cell['n']}/{cell['due']}" if "due" in cell and cell["due"] != cell["n"] else str(cell["n"])


def change(cell: Cell | None) -> str:
    """A difference in percent points with its sign and interval."""
    if cell is None or cell.get("mean") is None:
        return "–"
    ends = "" if cell["low"] is None else f" [{_signed(cell['low'])}, {_signed(cell['high'])}]"
    return f"{_signed(cell['mean'])}{ends}"


def _signed(share: float) -> str:
    """Percent points; what rounds to nothing has no sign."""
    rounded = round(100 * share, 2)
    return f"{rounded:+.2f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.00"


def cell_text(cell: Cell | None) -> str:
    """A whole cell in one line: mean [low, high] (n/due), or against another run: mean (difference [low, high])."""
    if cell and cell.get("difference"):
        return value(cell) + (f" ({change(cell['difference'])})" if cell["difference"]["mean"] is not None else "")
    parts = (value(cell), spread(cell), f"({counts(cell)})" if counts(cell) else "")
    return " ".join(part for part in parts if part)


def flat(table: Table, runs: Sequence[str]) -> Table:
    """A table of several runs with a column for each run; any other table as it is."""
    if not runs:
        return table
    columns = [
        {**column, "name": (column["name"], i), "label": f"{column['label']}, {run}"}
        for column in table["columns"]
        for i, run in enumerate(runs)
    ]
    rows = [
        {"name": row["name"], "cells": {(name, i): one for name, cell in row["cells"].items() for i, one in enumerate(cell["runs"])}}
        for row in table["rows"]
    ]
    return {**table, "columns": columns, "rows": rows}


def _runs(board: Mapping[str, Any]) -> list[str]:
    return [run["name"] for run in board.get("runs", ())]


def markdown(board: Mapping[str, Any]) -> str:
    """tables.md: who, what, warnings, and every table."""
    lines = [f"# {heading(board)}", "", *(f"- {text}" for text in facts(board)), *(f"- **Warning**: {text}" for text in board["warnings"])]
    lines += ["", "Shares in percent: mean [interval over dialogues] (verdicts/due where some are missing). Turns count from T1.", ""]
    for table in board["tables"]:
        lines += [f"## {table['title']}", ""] + ([table["note"], ""] if table["note"] else [])
        lines += _markdown_table(flat(table, _runs(board))) + [""]
        about = [f"*{column['label']}*: {column['about']}" for column in table["columns"] if column.get("about")]
        lines += ["; ".join(about) + ".", ""] if about else []
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    head = [table["key"], *(column["label"] for column in table["columns"])]
    rows = [[row["name"], *(cell_text(row["cells"].get(column["name"])) for column in table["columns"])] for row in table["rows"]]
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]


def latex(board: Mapping[str, Any]) -> str:
    r"""tables.tex: one table environment for each table, shrunk where it is wider than the line; wants \usepackage{booktabs,graphicx}."""
    said = [heading(board), *facts(board), *(f"Warning: {text}" for text in board["warnings"])]
    head = [*(f"% {_one_line(text)}" for text in said), "% \\usepackage{booktabs,graphicx}", ""]
    return "\n".join([*head, *("\n".join(_latex_table(flat(table, _runs(board)), board)) + "\n" for table in board["tables"])])


_SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def _latex_table(table: Table, board: Mapping[str, Any]) -> list[str]:
    columns = table["columns"]
    caption = f"{board['title']}, {table['title'][:1].lower()}{table['title'][1:]}. {table['note']}".strip()
    lines = ["\\begin{table}[t]", "\\centering", f"\\caption{{{escaped(caption)}}}", f"\\label{{tab:{board['benchmark']}_{table['name']}}}"]
    lines += [_SHRUNK, f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    lines += [" & ".join([escaped(table["key"]), *(escaped(column["label"]) for column in columns)]) + r" \\", "\\midrule"]
    for row in table["rows"]:
        cells = (_latex_cell(row["cells"].get(column["name"])) for column in columns)
        lines.append(" & ".join([escaped(row["name"]), *cells]) + r" \\")
    return [*lines, "\\bottomrule", "\\end{tabular}}", "\\end{table}"]


def _latex_cell(cell: Cell | None) -> str:
    text = escaped(value(cell))
    half = change(cell["difference"]) if cell and cell.get("difference") else spread(cell)
    half = "" if half == "–" else half
    return f"{text} {{\\scriptsize {escaped(half)}}}" if half else text


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "–": "--", "\N{MINUS SIGN}": "$-$", "→": r"$\rightarrow$", "·": r"$\cdot$",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text as LaTeX sets it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def heading(board: Mapping[str, Any]) -> str:
    """The title line."""
    names = [run["name"] for run in board["runs"]] if "runs" in board else [board["model"] or "unnamed model"]
    return f"{board['title']}: {', '.join(names)}" + (f", {board['date']}" if board.get("date") else "")


def facts(board: Mapping[str, Any]) -> list[str]:
    """What a reader has to know about an evaluation."""
    if "runs" in board:
        return [f"{board['sessions']} dialogues that all runs have; differences are paired, and against {board['runs'][0]['name']}."]
    data, pictures, judge = board["data"], board["pictures"], board["judge"]
    told = [f"{data['sessions']} dialogues, {data['turns']} turns of {data['split']}, {board['pass']} pass; intervals {board['level']:.0%}"]
    told.append(f"{pictures['there']} of {pictures['due']} pictures" + (f", made by {pictures['made_by']}" if pictures["made_by"] else ""))
    if judge:
        told.append(
            "judge " + ", ".join(f"{name} {_plain(judge[name])}" for name in judge if name != "urls" and judge[name] not in ("", None))
        )
    hashes = board["hashes"]
    told.append(f"hashes: rewards {hashes['rewards'] or '?'}, words {hashes['words']}, scores {hashes['scores'][:16]}")
    return told


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def side_by_side(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table for a terminal."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in [columns, *rows])
