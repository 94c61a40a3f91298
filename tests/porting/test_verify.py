"""The recorded cases through our functions, and what `port verify` says about checkpoints that are not the recorded one."""

import json
import math
import shutil

import bagel_cases as golden
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from editr2_jax.cli import main as entry
from editr2_jax.cli import port
from editr2_jax.porting import verify

pytestmark = pytest.mark.golden


def _verify(checkpoint, cases, *more: str) -> int:
    return port.main(["verify", f"--checkpoint={checkpoint}", f"--cases={cases}", *more])


CASES = "a b c d d_novit e e_tks f g0 g1 g_unit h i_ctx i1 i1_attached i2 i3 i4 i5 i6 j k m".split()


@pytest.mark.slow
def test_every_recorded_case_holds_and_the_json_tells_every_tensor(tmp_path, capsys):
    assert _verify(golden.FOLDER, golden.FOLDER, f"--json={tmp_path / 'rows.json'}") == 0
    told = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    notes = json.loads((golden.FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]
    assert told["ok"] and [case["case"] for case in told["cases"]] == CASES
    for case in told["cases"]:
        outputs = [name for name, note in notes[case["case"]]["tensors"].items() if note["role"] == "output"]
        assert outputs and [row["tensor"] for row in case["tensors"]] == outputs
        assert case["ok"] and case["absolute"] == max(row["absolute"] for row in case["tensors"])
        assert all(row["ok"] for row in case["tensors"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["case", *CASES, str(len(CASES))]
    assert printed[-1] == "23 of 23 cases hold (276 tensors)"


def test_a_changed_weight_fails_the_case_that_reads_it_by_name(tmp_path, capsys):
    checkpoint = tmp_path / "changed"
    shutil.copytree(golden.FOLDER, checkpoint)
    weights = load_file(checkpoint / "ema.safetensors")
    weights["connector.fc2.bias"] = weights["connector.fc2.bias"] + np.float32(1e-3)
    save_file(weights, checkpoint / "ema.safetensors")
    assert _verify(checkpoint, golden.FOLDER, "--only=c,k", f"--json={tmp_path / 'rows.json'}") == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("failed: c")
    c, k = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["cases"]
    bad = {row["tensor"] for row in c["tensors"] if not row["ok"]}
    assert bad == {"c.connector", "c.embedded", "c2.connector", "c2.embedded"} and k["ok"] and not c["ok"]
    assert c["absolute"] == pytest.approx(1e-3, rel=0.05)


def _folder_with(tmp_path, change):
    """The recorded folder with another cases.json."""
    folder = tmp_path / "cases"
    shutil.copytree(golden.FOLDER, folder)
    told = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    change(told["cases"])
    (folder / "cases.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_an_unknown_case_is_told_and_an_absent_one_is_not_missed(tmp_path, capsys):
    def change(cases):
        for name in set(cases) - {"j"}:
            del cases[name]
        cases["z"] = {"title": "something new", "tensors": {}}

    assert _verify(golden.FOLDER, _folder_with(tmp_path, change)) == 0
    printed = capsys.readouterr().out
    assert "z" in printed and "not run: no such case is known here" in printed
    assert printed.splitlines()[-1] == "1 of 1 cases hold (7 tensors); not run: 1"


def test_a_tensor_that_ours_does_not_give_fails_its_case(tmp_path):
    def change(cases):
        cases["j"]["tensors"]["j.image_0"]["role"] = "output"

    folder = _folder_with(tmp_path, change)
    (verdict,) = verify.verify(golden.FOLDER, folder, only=["j"])
    assert not verdict.ok and verdict.worst.tensor == "j.image_0" and verdict.worst.note == "not computed"
    assert json.dumps(verify.as_json([verdict]), allow_nan=False)  # an error that is no number is null


def test_a_case_that_breaks_fails_by_name_and_the_others_run(tmp_path):
    def change(cases):
        del cases["g0"]  # the step of g_unit takes its schedule from there

    verdicts = {v.case: v for v in verify.verify(golden.FOLDER, _folder_with(tmp_path, change), only=["g_unit", "j"])}
    assert verdicts["j"].ok and not verdicts["g_unit"].ok
    assert "case g0 is missing" in verdicts["g_unit"].worst.note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=dd"], "no case 'dd' (the nearest is d"),
        (["--cases=nowhere"], "nowhere/cases.json"),
        (["--checkpoint=nowhere"], "nowhere: no such folder"),
        (["--onyl=a"], "unknown flag --onyl (the nearest is --only)"),
    ],
)
def test_a_mistake_is_one_message(arguments, message, capsys):
    given = {"--checkpoint": str(golden.FOLDER), "--cases": str(golden.FOLDER)} | dict(part.split("=") for part in arguments)
    assert entry.main(["port", "verify", *(f"{name}={value}" for name, value in given.items())]) == entry.USAGE
    assert message in capsys.readouterr().err


def _row(ours, theirs, **note):
    return verify.compare("x", "x.y", ours, np.asarray(theirs), note)


def test_tolerances_by_hand():
    assert _row([1.0, 2.5], np.float32([1.0, 2.0]), suggested_atol=0.5).ok
    row = _row([1.0, 2.5], np.float32([1.0, 2.0]), suggested_atol=0.4)
    assert (row.ok, row.absolute, row.relative, row.strain) == (False, 0.5, 0.25, 1.25)
    assert not _row([np.nan], np.float32([0.0]), suggested_atol=1.0).ok
    assert math.isinf(_row([1.0], np.float32([1.0, 1.0]), suggested_atol=1.0).absolute)  # another shape
    assert _row([3, 4], np.int32([3, 4]), suggested_rule="exact").ok
    assert not _row([3, 5], np.int32([3, 4]), suggested_rule="exact").ok


def test_a_picture_may_be_one_level_off_in_a_few_places():
    theirs, rule = np.full((10, 10, 3), 7, np.uint8), "at most 1 level, in a few pixels"
    ours = theirs.copy()
    ours[0, 0] = 8, 6, 8
    assert _row(ours, theirs, suggested_rule=rule).ok
    ours[5, 5, 0] = 8
    assert not _row(ours, theirs, suggested_rule=rule).ok  # four are not a few
    ours = theirs.copy()
    ours[0, 0, 0] = 9
    assert not _row(ours, theirs, suggested_rule=rule).ok
