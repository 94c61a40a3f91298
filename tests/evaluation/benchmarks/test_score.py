"""From a folder of pictures to tables, by the command line: twice alike, never asked twice, every number traceable."""

import csv
import json
import re
import shutil
import sqlite3
import subprocess
import time

import numpy as np
import pytest
from judge_server import PATIENT
from PIL import Image
from small_checkpoint import CONFIG, call, start

from editr2_jax import presets
from editr2_jax.evaluation import tables
from editr2_jax.evaluation.benchmarks import comparison, leaderboard, page, rendering, trace
from tests.evaluation.benchmarks.conftest import SESSIONS, TURNS, draw
from tests.evaluation.benchmarks.hand_made import cell, dialogue
from tests.evaluation.test_report import HOSTILE, Outline

TABLES = ("scores.jsonl", "leaderboard.json", "tables.md", "tables.tex", "index.html")


def score(world, pictures, out, *more, status=0):
    outcome = call("score", f"--pictures={pictures}", f"--data={world}", f"--workdir={out}", *more)
    assert outcome.status == status, outcome.err
    return outcome


def by(server, **vlm):
    settings = {"model": "judge", "urls": f"('{server.url}',)", **PATIENT, **vlm}
    return ["--config.rewards.answerer=vlm", *(f"--config.rewards.vlm.{name}={value}" for name, value in settings.items())]


def made(out):
    return {name: (out / name).read_bytes() for name in TABLES}


def asked(out):
    return [json.loads(line) for line in (out / "asked.jsonl").read_text().splitlines()]


def test_pictures_of_another_tool_are_scored_and_the_second_time_nothing_is_asked(world, pictures, tmp_path):
    out = tmp_path / "out"
    told = score(world, pictures, out, "--date=2026-11-29", "--model=theirs")
    first = made(out)
    assert "# MICE-Bench: theirs, 2026-11-29" in told.out and "asked: verdicts/asked 36, verdicts/stored 0" in told.out
    told = score(world, pictures, out, "--date=2026-11-29", "--model=theirs")
    assert made(out) == first and "asked: verdicts/asked 0, verdicts/stored 36" in told.out
    board = leaderboard.read(out)
    assert (board["data"]["sessions"], board["data"]["turns"], board["pictures"]["there"]) == (SESSIONS, SESSIONS * TURNS, SESSIONS * TURNS)
    assert cell(board, "subset", "all", "if")["mean"] == pytest.approx(11 / 12)  # one edit was not made
    assert str(tmp_path) not in first["leaderboard.json"].decode() + first["tables.md"].decode() + first["index.html"].decode()


def test_over_http_the_server_s_own_books_say_that_nothing_is_asked_twice(world, pictures, server, tmp_path):
    """Also of answers that cannot be read, which are no verdicts and are kept all the same."""
    server.control(answers={"truncated": 0.3})
    out, judge = tmp_path / "out", [*by(server), "--config.rewards.max_error_share=1.0"]
    score(world, pictures, out, *judge)
    first, books = made(out), len(server.questions())
    assert books > 0 and asked(out)[0]["judge/requests"] == books
    assert "judge_format_error" in leaderboard.read(out)["denominators"]["ga"]
    score(world, pictures, out, *judge)
    assert made(out) == first and len(server.questions()) == books
    assert asked(out)[1].get("judge/requests", 0) == 0 and asked(out)[1]["judge/cache_hits"] > 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(out / "answers.sqlite", elsewhere)
    server.kill()
    score(world, pictures, elsewhere, *judge)
    assert made(elsewhere) == first
    requests = {request["request"] for record in tables.read(out / "scores.jsonl") for detail in record["detail"].values()
                for request in detail.get("requests", ())}  # fmt: skip
    assert requests == {line["key"] for line in server.questions()}  # what a record names is what the server was sent


def test_a_scoring_that_was_cut_short_asks_for_the_rest_alone(world, pictures, server, tmp_path):
    out = tmp_path / "out"
    server.control(shares={"error": 0.5})
    told = score(world, pictures, out, *by(server, retries=0, breaker_failures=1000), status=1)
    assert "verdicts failed" in told.err and "Repair the judge and score again" in told.err and not (out / "leaderboard.json").exists()
    answered = sum(line.get("fault", "") == "" for line in server.questions())
    server.control(shares={})
    before = len(server.questions())
    score(world, pictures, out, *by(server))
    whole = tmp_path / "whole"
    score(world, pictures, whole, *by(server, cache=tmp_path / "another.sqlite"))
    assert made(out)["scores.jsonl"] == made(whole)["scores.jsonl"]
    assert 0 < len(server.questions()) - before and answered > 0
    failed, rest = asked(out)  # a call that was given up has asked as well
    assert failed["verdicts/asked"] > 0 and failed["judge/requests"] > 0 and "verdicts/stored" not in failed
    assert rest["judge/requests"] < asked(whole)[0]["judge/requests"]


@pytest.mark.slow
def test_a_scoring_that_was_killed_asks_nothing_again_that_was_answered(world, pictures, server, tmp_path):
    """By kill -9 and the judge's own books: what the answer cache holds at the kill is never asked for again."""
    out = tmp_path / "out"
    judge = [f"--pictures={pictures}", f"--data={world}", f"--workdir={out}", *by(server)]
    server.control(delay_s=0.3)
    process = start("score", *judge)
    for _ in range(600):
        if len(server.questions()) >= 5 or process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    told = process.communicate()[0]
    assert len(server.questions()) >= 5 and not (out / "leaderboard.json").exists(), told
    with sqlite3.connect(out / "answers.sqlite") as base:
        answered = {key for (key,) in base.execute("SELECT key FROM answers")}
    before = len(server.questions())
    assert answered
    server.control(delay_s=0.0)
    outcome = call("score", *judge)
    assert outcome.status == 0, outcome.err
    again = {line["key"] for line in server.questions()[before:]}
    assert again and not again & answered
    whole = tmp_path / "whole"
    score(world, pictures, whole, *by(server))
    assert made(whole) == made(out)


def test_a_folder_with_something_wrong_is_refused_and_may_be_scored_in_part(world, pictures, tmp_path):
    sessions = sorted(path.name for path in (pictures / "test").iterdir())
    (pictures / "test" / sessions[0] / "turn_1.png").unlink()
    (pictures / "test" / sessions[2] / "turn_2.png").write_text("no")
    told = score(world, pictures, tmp_path / "out", status=2)
    assert f"test/{sessions[0]}/turn_1.png: missing" in told.err and "turn_2.png: cannot be read" in told.err and "--partial" in told.err
    assert not (tmp_path / "out/scores.jsonl").exists()
    told = score(world, pictures, tmp_path / "out", "--partial")
    board = leaderboard.read(tmp_path / "out")
    assert board["denominators"]["if"] == {"no_picture": 3, "ok": 9} and board["pictures"]["there"] == 9
    assert "3 of 12 turns have no picture" in board["warnings"][0] and "1 missing, 1 damaged" in board["warnings"][1]
    assert cell(board, "subset", "all", "if")["due"] == 12
    lost = [record for record in tables.read(tmp_path / "out/scores.jsonl") if "no_picture" in record["status"].values()]
    assert "missing" in lost[0]["detail"]["if"]["reason"] and lost[0]["scores"]["if"] is None


def test_an_out_of_another_config_is_refused(world, pictures, tmp_path):
    score(world, pictures, tmp_path / "out")
    told = score(world, pictures, tmp_path / "out", "--config.rewards.inset=0.1", status=2)
    assert "rewards.inset was 0.2, is 0.1" in told.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--date=yesterday"], "give it as YYYY-MM-DD"),
        (["--benchmark=mice"], "there is no benchmark 'mice'"),
        (["--size=big"], "choose from drawn, source"),
        (["--split=dev"], "there is no split 'dev'"),
        (["--turns=-1"], "turns is -1"),
        (["--trained-by=nowhere"], "--trained-by=nowhere: there is no config.json"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_asked(world, pictures, tmp_path, more, message):
    assert message in score(world, pictures, tmp_path / "out", *more, status=2).err
    assert not list((tmp_path / "out").glob("verdicts/*"))


def test_other_pictures_do_not_take_the_place_of_those_that_were_scored(world, pictures, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    score(world, pictures, out)
    first = made(out)
    shutil.copytree(pictures, other)
    told = score(world, other, out, status=2)
    assert "holds the scores of pictures" in told.err and "give another --workdir" in told.err and made(out) == first


def test_every_mean_can_be_followed_to_its_verdicts(world, pictures, tmp_path):
    out = tmp_path / "out"
    score(world, pictures, out)
    board = leaderboard.read(out)
    verdicts = {json.loads(line)["key"] for line in (out / "verdicts/0.jsonl").read_text().splitlines()}
    seen = 0
    for table in board["tables"]:
        for row in table["rows"]:
            for column, found in row["cells"].items():
                if column not in ("if", "cc", "ga") or "from" not in found or found["mean"] is None:
                    continue
                if "mix" in row["name"]:
                    continue  # weighted, and not the mean of what is behind it
                address = f"{table['name']}/{row['name']}/{column}"
                lines = [json.loads(line) for line in trace.lines(tables.read(out / "scores.jsonl"), trace.cell(board, address)["from"])]
                assert np.mean([line["score"] for line in lines if line["status"] == "ok"]) == pytest.approx(found["mean"])
                assert {line["verdict"] for line in lines} <= verdicts
                seen += 1
    assert seen > 40
    told = call("trace", f"--workdir={out}", "turn/memory, T2/ga_so_far")
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert {line["turn"] for line in lines} == {1, 2} and lines[0]["requests"][0].keys() >= {"prompt", "request", "answer", "vote"}
    assert "there is no row 'memory'" in call("trace", f"--workdir={out}", "turn/memory/if").err
    (out / "scores.jsonl").unlink()
    assert "scores.jsonl: not found; evaluate or score again" in call("trace", f"--workdir={out}", "turn/memory, T2/if").err


def test_runs_side_by_side_are_paired(world, pictures, tmp_path):
    draw(world, tmp_path / "right")
    score(world, pictures, tmp_path / "a", "--model=careless")
    score(world, tmp_path / "right", tmp_path / "b", "--sessions=5")
    outcome = call("compare", tmp_path / "a", tmp_path / "b", f"--out={tmp_path / 'both'}")
    assert outcome.status == 0 and "| subset and turn | IF, a | IF, b |" in outcome.out
    told = json.loads((tmp_path / "both/comparison.json").read_text())
    one, other = cell(told, "subset", "all", "if")["runs"]
    assert told["sessions"] == 5 and one["mean"] == pytest.approx(0.9) and other["mean"] == 1.0
    assert other["difference"]["mean"] == pytest.approx(0.1) and other["difference"]["n"] == 10
    assert any("1 of its dialogues are not in all runs" in text for text in told["warnings"])
    text = (tmp_path / "both/index.html").read_text()
    assert 'href="../b/index.html#cell=subset/all/if"' in text and Outline(text).open == []
    odd = (tmp_path / "b").rename(tmp_path / "50% of #2")
    assert call("compare", tmp_path / "a", odd, f"--out={tmp_path / 'odd'}").status == 0
    assert 'href="../50%25%20of%20%232/index.html#cell=subset/all/if"' in (tmp_path / "odd/index.html").read_text()
    first = made(tmp_path / "a")
    assert "holds the tables of a scoring" in call("compare", tmp_path / "a", odd, f"--out={tmp_path / 'a'}").err
    assert made(tmp_path / "a") == first
    assert "2 to 26 evaluations, got 1" in call("compare", tmp_path / "a", f"--out={tmp_path / 'no'}").err
    assert "given twice" in call("compare", tmp_path / "a", tmp_path / "a", f"--out={tmp_path / 'no'}").err


def test_what_cannot_be_compared_is_said(world, pictures, tmp_path):
    score(world, pictures, tmp_path / "a")
    score(world, pictures, tmp_path / "b", "--config.rewards.inset=0.1")
    score(world, pictures, tmp_path / "c", "--benchmark=edival_bench")
    told = call("compare", tmp_path / "a", tmp_path / "b", f"--out={tmp_path / 'ab'}").out
    assert "b: another judge's settings or prompts than a" in told and "size of the pictures" not in told
    score(world, pictures, tmp_path / "d", "--size=source", "--turns=1")
    told = call("compare", tmp_path / "a", tmp_path / "d", f"--out={tmp_path / 'ad'}").out
    assert "d: another size of the pictures that are judged than a" in told
    assert f"a: {SESSIONS} turns of dialogues that all runs have are not in all runs" in told
    assert "compare those of one benchmark" in call("compare", tmp_path / "a", tmp_path / "c", f"--out={tmp_path / 'ac'}").err


def test_a_single_pass_folder_asks_each_picture_for_all_it_should_show(world, pictures, tmp_path):
    (pictures / "meta.json").write_text('{"pass": "single"}')
    score(world, pictures, tmp_path / "out")
    records = tables.read(tmp_path / "out/scores.jsonl")
    assert [len(record["each"]) for record in records] == [1, 2] * SESSIONS
    lost = records[3]  # the second edit of the second dialogue was not made; the first one still holds in the picture
    assert [one["score"] for one in lost["each"]] == [1.0, 0.0]
    assert "single pass" in (tmp_path / "out/tables.md").read_text()
    next(pictures.rglob("turn_2.png")).unlink()
    score(world, pictures, tmp_path / "less", "--partial")
    assert leaderboard.read(tmp_path / "less")["denominators"]["ga"] == {"not_applicable": SESSIONS * TURNS}  # due for none of them


def test_some_turns_of_some_sessions(world, pictures, tmp_path):
    score(world, pictures, tmp_path / "out", "--turns=1", "--sessions=4")
    assert leaderboard.read(tmp_path / "out")["data"]["turns"] == 4
    for path in pictures.rglob("turn_2.png"):
        path.unlink()
    score(world, pictures, tmp_path / "less", "--turns=1", "--sessions=4")
    assert made(tmp_path / "less") == made(tmp_path / "out")


def test_a_trajectory_is_graded_once_however_many_turns_the_config_plays(world, pictures, server, tmp_path):
    grade = ["--config.rewards.use=('trajectory_grade',)", "--config.rewards.trajectory_grade.whole=True", "--config.rollout.turns=1"]
    score(world, pictures, tmp_path / "out", *by(server), *grade, "--config.rewards.max_error_share=1.0")
    found = leaderboard.read(tmp_path / "out")["denominators"]["trajectory_grade"]
    assert found == {"not_applicable": SESSIONS, "judge_format_error": SESSIONS}  # this judge knows no grades


def test_pictures_of_another_size_are_scored_at_the_source_s(world, pictures, tmp_path):
    for path in pictures.rglob("*.png"):
        Image.open(path).resize((96, 60), Image.Resampling.LANCZOS).save(path)
    assert "of another shape" in score(world, pictures, tmp_path / "no", status=2).err
    score(world, pictures, tmp_path / "out", "--size=source")
    assert cell(leaderboard.read(tmp_path / "out"), "subset", "all", "cc")["mean"] > 0.8


def unscored(out):
    """A workdir that a scoring has claimed, and not finished."""
    call("score", f"--pictures={out}", f"--data={out}", f"--workdir={out}")
    assert (out / "config.json").is_file()
    return out


def test_the_judge_s_agreement_with_itself(world, pictures, server, tmp_path):
    out = tmp_path / "out"
    assert "scoring.json: not found; give a folder that `score` has written" in call("agreement", f"--workdir={unscored(out)}").err
    score(world, pictures, out, *by(server))
    before = len(server.questions())
    outcome = call("agreement", f"--workdir={out}", "--questions=5", "--times=3", "--config.rewards.vlm.temperature=0.7")
    assert outcome.status == 0, outcome.err
    assert len(server.questions()) - before == 15  # nothing but these: the answers that were scored are at hand
    found = json.loads((out / "agreement.json").read_text())
    assert found["judge"] == {"answerer": "vlm", "model": "judge", "temperature": 0.7} and len(found["questions"]) == 5
    assert found["kinds"]["all"]["agreement"]["mean"] == 1.0 and found["kinds"]["all"]["unanswered"] == 0  # this judge reads pixels
    assert found["asked"]["judge/requests"] == 15 and "Fleiss' kappa" in outcome.out
    scored = {request["request"]: request["answer"] for record in tables.read(out / "scores.jsonl")
              for detail in record["detail"].values() for request in detail.get("requests", ())}  # fmt: skip
    assert {line["request"] for line in found["questions"]} <= scored.keys()  # questions of the scoring itself
    told = call("agreement", f"--workdir={out}", "--config.rewards.vlm.language=zh").err
    assert "rewards.vlm.language is a part of the questions" in told


# texts and pages -------------------------------------------------------------------------------------------------------------------


def hostile():
    records = [*dialogue("a", (1, 0), gas=(1, None), subset="memory"), *dialogue(HOSTILE, (1, 1), gas=(1, 1), subset="memory")]
    for record in records:
        record["instruction"], record["task_type"] = HOSTILE, HOSTILE
        record["detail"]["ga"] = {
            "requests": [{"kind": "prefix", "vote": 0, "prompt": "p", "request": "r", "answer": HOSTILE}],
            "verdict": "v",
        }
    return records, leaderboard.make(records, leaderboard.Circumstances(draws=20, split=HOSTILE))


def test_a_page_is_data_whatever_the_data_say():
    records, board = hostile()
    text = page.page(board, records)
    outline = Outline(text)
    assert outline.open == [] and "<img src=x" not in text and len(outline.blocks) == 1
    assert len(outline.blocks[0]) == 4 and outline.blocks[0][0]["said"]["ga"]["requests"][0]["answer"] == HOSTILE
    assert not re.search(r'(src|href)="https?:', text)


def test_latex_is_escaped_and_whole():
    _, board = hostile()
    text = rendering.latex(board)
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == text.count("\\toprule") == len(board["tables"])
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert body and all(not re.search(r"(?<!\\)[%#_$&]", line.replace(" & ", " ").replace("$-$", "")) for line in body)
    assert rendering.escaped("50 % of a_b & c") == r"50 \% of a\_b \& c"
    assert rendering.escaped("<a|b>") == r"\textless{}a\textbar{}b\textgreater{}"  # other letters in TeX's own encoding


def packages_of_latex():
    wanted = ("booktabs.sty", "graphicx.sty")
    return shutil.which("pdflatex") and subprocess.run(["kpsewhich", *wanted], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not packages_of_latex(), reason="no pdflatex with booktabs and graphicx: LaTeX is not set")
@pytest.mark.parametrize("form", ["onecolumn", "twocolumn"])
def test_latex_is_set_and_no_table_leaves_the_line(tmp_path, form):
    names = ("50% & more_of #2", r"{a} ~b^c <d> $e\f|g", "c", "d")
    runs = [comparison.Run(name=name, board=hostile()[1] | {"warnings": ["100 % & #_"]}, records=hostile()[0]) for name in names]
    for board in (hostile()[1], comparison.make(runs, draws=20)):
        (tmp_path / "tables.tex").write_text(rendering.latex(board))
        text = r"\documentclass[FORM]{article}\usepackage{booktabs,graphicx}\begin{document}\input{tables}\end{document}"
        (tmp_path / "paper.tex").write_text(text.replace("FORM", form))
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=100, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout


def test_probabilities_are_no_successes_and_a_warning_says_so():
    rewards = presets.edit_r2().rewards.to_dict() | {"answerer": "vlm"}
    warned = lambda soft: leaderboard.make(hostile()[0], leaderboard.Circumstances(  # noqa: E731
        draws=20, rewards=rewards | {"vlm": rewards["vlm"] | {"soft": soft}}
    ))["warnings"]  # fmt: skip
    assert warned(False) == [] and "IF is a probability" in warned(True)[0]


def test_latex_tells_its_warnings():
    records, _ = hostile()
    text = rendering.latex(leaderboard.make(records, leaderboard.Circumstances(draws=20, warnings=["mind\nthis"])))
    assert "% Warning: mind this" in text.splitlines()


def test_markdown_has_as_many_cells_as_columns():
    _, board = hostile()
    for block in re.findall(r"(?:^\|.*\n)+", rendering.markdown(board), re.MULTILINE):
        rows = list(csv.reader([line.replace("\\|", "") for line in block.splitlines()], delimiter="|", quoting=csv.QUOTE_NONE))
        assert len({len(row) for row in rows}) == 1


# evaluate -> folder -> score -------------------------------------------------------------------------------------------------------


def evaluate(workdir, checkpoint, *more):
    return call("evaluate", f"--config={CONFIG}", f"--workdir={workdir}", f"--config.model.checkpoint={checkpoint}", *more)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_what_evaluate_scores_is_what_score_finds_in_its_pictures(small_checkpoint, tmp_path):
    outcome = evaluate(tmp_path / "run", small_checkpoint)
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "run/eval/0/pictures"
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["pass"], meta["made_by"], meta["seeds"]) == ("multi", "editr2_jax evaluate", {"noise": 0})
    score(tmp_path / "run/data", folder, tmp_path / "out", "--sessions=2")
    alone, along = (tables.read(path) for path in (tmp_path / "out/scores.jsonl", tmp_path / "run/eval/0/scores.jsonl"))
    strip = lambda record: {name: value for name, value in record.items() if name != "detail"}  # noqa: E731
    assert [strip(record) for record in alone] == [strip(record) for record in along]
    first = made(tmp_path / "out")
    told = score(tmp_path / "run/data", folder, tmp_path / "out", "--sessions=2")
    assert made(tmp_path / "out") == first and "verdicts/asked 0" in told.out
    drawn = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    outcome = evaluate(tmp_path / "pictures", small_checkpoint, "--pictures-only")
    assert outcome.status == 0, outcome.err
    again = tmp_path / "pictures/eval/0/pictures"
    assert {path.relative_to(again): path.read_bytes() for path in sorted(again.rglob("*")) if path.is_file()} == drawn


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_an_evaluation_tells_what_its_judge_was_asked_and_whether_it_trained_the_model(small_checkpoint, server, tmp_path):
    outcome = evaluate(tmp_path / "run", small_checkpoint, *by(server, cache=tmp_path / "answers.sqlite"))
    assert outcome.status == 0, outcome.err
    judge = json.loads((tmp_path / "run/eval/0/summary.json").read_text())["judge"]
    assert judge["judge/requests"] == judge["judge/cache_misses"] == len(server.questions()) > 0
    assert f"judge: answer_seconds {judge['judge/answer_seconds']:g}" in outcome.out
    assert "What the judge was asked" in (tmp_path / "run/report/index.html").read_text()
    told = score(
        tmp_path / "run/data",
        tmp_path / "run/eval/0/pictures",
        tmp_path / "out",
        "--sessions=2",
        f"--trained-by={tmp_path / 'run'}",
        *by(server),
    )
    assert "**Warning**: the judge of this evaluation, 'judge', is the judge that the model was trained with" in told.out
    assert leaderboard.read(tmp_path / "out")["same_judge_as_training"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_a_single_pass_is_drawn_and_scored(small_checkpoint, tmp_path):
    outcome = evaluate(tmp_path / "run", small_checkpoint, "--pass=single", "--config.rollout.slots.instruction=160")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "run/eval/0/pictures"
    assert sorted(path.name for path in folder.rglob("*.png")) == ["turn_1.png"] * 2 + ["turn_2.png"] * 2
    score(tmp_path / "run/data", folder, tmp_path / "out", "--sessions=2")
    assert leaderboard.read(tmp_path / "out")["pass"] == "single"
    drawn = {path: path.read_bytes() for path in folder.rglob("*.png")}
    outcome = evaluate(tmp_path / "run", small_checkpoint, "--config.rollout.slots.instruction=160")
    assert outcome.status == 2 and "holds the pictures of a single pass; give another --workdir" in outcome.err
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == drawn
