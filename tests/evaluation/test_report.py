"""The page: complete for a complete run, friendly for every incomplete one, and never more than data."""

import html.parser
import json
import re
import shutil

import pytest

from editr2_jax import presets
from editr2_jax.cli import report as verb
from editr2_jax.evaluation import recorded_run, report, report_charts
from tests.evaluation import fake_workdir

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return fake_workdir.build(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


class Outline(html.parser.HTMLParser):
    """Tags with their attributes, the JSON blocks, and whether every element is closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.blocks, self._json = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._json = ("type", "application/json") in attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self._json:
            self.blocks.append(json.loads(data))
            self._json = False


def written(workdir):
    text = report.write(workdir).read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    return text, outline


def test_a_finished_run_shows_everything_and_fetches_nothing(finished):
    text, outline = written(finished)
    assert text.count('class="missing"') == 1 and 'class="notices"' not in text  # the one is for browsers without scripts
    for part in ("mean session reward, step 0 → 60", "By task type", "test/0001", "data.path", "jax"):
        assert part in text
    addresses = [value for _, attributes in outline.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert not list((finished / "report").glob(".*"))  # written beside and moved into place


def test_every_table_scrolls_in_a_box_of_its_own(finished):
    text, _ = written(finished)
    boxes = re.findall("(.{0,20})<table", text, re.DOTALL)
    assert len(boxes) > 5 and all(before.endswith('<div class="scroll">') for before in boxes)


def test_the_inspector_holds_every_rollout_with_its_pictures(finished):
    _, outline = written(finished)
    index = next(block for block in outline.blocks if "groups" in block)
    blocks = [block for block in outline.blocks if "rollouts" in block]
    training = [group for group in index["groups"] if group["where"] == "training"]
    assert [group["key"] for group in training] == ["59.0", "59.1", "30.0", "30.1", "0.0", "0.1"]
    turns = [turn for block in blocks[: len(training)] for rollout in block["rollouts"] for turn in rollout]
    assert len(turns) == 3 * 2 * 4 * 3 and all(turn["picture"].startswith("data:image/png;base64,") for turn in turns)
    assert any(turn.get("why_filtered") for turn in turns)
    assert len(index["groups"]) == len(blocks) == 6 + 24
    shown = {attributes.get("id") for tag, attributes in outline.tags if tag == "img"}
    held = [turn["picture"] for block in blocks[6:] for rollout in block["rollouts"] for turn in rollout if turn.get("picture")]
    assert len(held) == 2 * 8 * 3 and {name.removeprefix("@") for name in held} <= shown, (
        "pictures that the page has already are not there twice"
    )


def test_the_result_line_is_the_headline_and_lies_beside_the_page(finished):
    report.write(finished)
    assert report.result(finished).startswith("mean session reward 0.")
    assert (finished / "report" / "result.txt").read_text() == report.result(finished) + "\n"


def test_an_empty_workdir_gets_a_friendly_page(tmp_path):
    text, _ = written(tmp_path)
    for part in ("No evaluation yet", "No scores yet", "No training step", "No pictures", "No rollouts", "No config.json"):
        assert part in text
    assert report.result(tmp_path) == "0 evaluation(s) so far; a result needs one before training and one after"


@pytest.mark.parametrize(
    "gone", ["config.json", "versions.json", "metrics.jsonl", "eval", "eval/0", "eval/0/scores.jsonl", "eval/60/strips.json"]
)
def test_a_run_in_progress_gets_a_page(workdir, gone):
    path = workdir / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text, _ = written(workdir)
    assert "Session inspector" in text and 'class="notices"' not in text  # what is not there yet is no fault


def test_one_evaluation_is_shown_without_a_comparison(workdir):
    shutil.rmtree(workdir / "eval" / "60")
    text, _ = written(workdir)
    assert "mean session reward at step 0" in text and "A second evaluation" in text and "before · step" not in text


def test_a_torn_last_line_of_metrics_is_ignored(workdir):
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 60, "rew')
    text, _ = written(workdir)
    assert "60 training steps recorded" in text and 'class="notices"' not in text


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "eval/0/scores.jsonl", "eval/0/strips.json", "sessions/30/rollouts.json"])
@pytest.mark.parametrize("content", ["{torn\n{}\n", "[1, 2]\n", '{"sessions": 3, "groups": [{}]}\n', "\udcff"])
def test_a_broken_file_costs_its_part_and_not_the_page(workdir, file, content):
    (workdir / file).write_bytes(content.encode(errors="surrogateescape"))
    text, _ = written(workdir)
    assert "Session inspector" in text


@pytest.mark.parametrize(("content", "told"), [
    ("[]", "holds no JSON object"),
    ('{"tables": {}}', "holds no summary of an evaluation"),
    ('{"level": 0.95, "reward": null, "tables": {"turn": {}}}', "a file behind it is not in the expected format"),
])  # fmt: skip
def test_a_strange_summary_is_made_again_or_told(workdir, content, told):
    (workdir / "eval/60/summary.json").write_text(content)
    text, _ = written(workdir)
    assert "mean session reward, step 0 → 60" in text
    (workdir / "eval/60/scores.jsonl").unlink()
    text, _ = written(workdir)
    assert told in text


def test_evaluations_of_other_sessions_are_told_apart(workdir):
    scores = workdir / "eval/60/scores.jsonl"
    scores.write_text(scores.read_text().replace("test/", "other/"))
    text, _ = written(workdir)
    assert "eval/0 and eval/60 are not compared: compare: no turn is in both" in text
    assert report.result(workdir).startswith("no result: compare: no turn is in both")


def test_what_comes_from_data_stays_data(workdir):
    for name in ("eval/0/scores.jsonl", "eval/60/scores.jsonl"):
        lines = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
        lines = [line | {"subset": HOSTILE, "task_type": HOSTILE, "status": dict.fromkeys(line["status"], HOSTILE)} for line in lines]
        (workdir / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (workdir / name).with_name("summary.json").unlink()
    strips = json.loads((workdir / "eval/0/strips.json").read_text())
    strips["sessions"][0]["turns"][0] |= {"instruction": HOSTILE, "intent": HOSTILE, "scores": {HOSTILE: 1.0}}
    (workdir / "eval/0/strips.json").write_text(json.dumps(strips))
    rollouts = json.loads((workdir / "sessions/0/rollouts.json").read_text())
    rollouts["groups"][0]["session"]["turns"][0]["instruction"] = HOSTILE
    (workdir / "sessions/0/rollouts.json").write_text(json.dumps(rollouts))
    (workdir / "config.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 0, f"reward/{HOSTILE}": 1.0}) + "\n")
    text, outline = written(workdir)
    assert not any("onerror" in attributes for _, attributes in outline.tags)
    assert text.count("<script") == text.count("</script>") and "&lt;/script&gt;" in text


def test_pictures_outside_the_workdir_are_not_shown(workdir, tmp_path):
    fake_workdir.picture(tmp_path, "secret.png", 8, 0)
    pictures = recorded_run.Pictures(workdir)
    for name in ("../../../secret.png", str(tmp_path / "secret.png"), "rollouts.json", "absent.png", None, 3):
        assert pictures.address(workdir / "sessions" / "0", name) is None


def test_pictures_beyond_the_budget_are_linked(workdir):
    pictures = recorded_run.Pictures(workdir, budget=0)
    assert pictures.address(workdir / "sessions" / "0", "g0/source.png") == "../sessions/0/g0/source.png"


def test_alarms_stand_on_top_and_a_healthy_run_has_none(workdir):
    text, _ = written(workdir)
    assert 'class="alarm"' not in text and "no alarm" in text
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {"reward/missing_share": 0.3} for line in lines]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text, outline = written(workdir)
    assert text.index("Verdicts are missing") < text.index('id="result"') and "30% of the training turns" in text
    assert ("a", {"href": "#rows=rollouts&filter=missing"}) in outline.tags and "1 alarm" in text


def test_many_recorded_steps_are_thinned_to_the_ends_and_between():
    assert recorded_run._spread(list(range(100)), 4) == [0, 33, 66, 99]


def test_records_beyond_the_budget_leave_out_steps_between(tmp_path):
    folders = [tmp_path / str(step) for step in range(10)]
    for folder in folders:
        folder.mkdir()
        (folder / "rollouts.json").write_text("x" * 100)
    assert recorded_run._within(folders, 1000) == folders
    assert [folder.name for folder in recorded_run._within(folders, 400)] == ["0", "3", "6", "9"]
    assert [folder.name for folder in recorded_run._within(folders, 1)] == ["0", "9"]


def test_metrics_that_belong_together_share_a_chart():
    names = ("reward/if/turn_0", "reward/if/turn_1", "image/ratio_min", "image/ratio_max", "image/kl", "time/rollout_s", "time/update_s")
    areas = dict(report_charts.training([{"step": 0} | dict.fromkeys(names, 1.0), {"step": 1, "image/kl": None}]))
    assert list(areas) == ["reward", "image", "time"]
    assert [series["label"] for series in areas["reward"][0]["series"]] == ["turn 0", "turn 1"]
    assert [chart["title"] for chart in areas["image"]] == ["image/ratio", "image/kl"]
    assert areas["image"][1]["series"][0]["y"] == [1.0, None]


def test_what_a_machine_did_is_compared_at_one_look():
    names = ("mfu/update", "mfu/rollout/denoise", "memory/update_peak_gb", "memory/in_use_gb", "idle/data_share", "idle/reward_share")
    areas = dict(report_charts.training([{"step": 0} | dict.fromkeys(names, 1.0)]))
    shown = {chart["title"]: [series["label"] for series in chart["series"]] for charts in areas.values() for chart in charts}
    assert shown == {
        "mfu/useful share of the peak": ["update", "rollout/denoise"],
        "memory/GB on the fullest device": ["update_peak", "in_use"],
        "idle/share of a step that devices wait or repeat": ["data", "reward"],
    }


def test_a_mean_joins_its_turns():
    ((_, (chart,)),) = report_charts.training([{"step": 0, "reward/mean": 0.5, "reward/mean/turn_0": 0.6, "reward/mean/turn_1": 0.4}])
    assert chart["title"] == "reward/mean" and [series["label"] for series in chart["series"]] == ["all", "turn 0", "turn 1"]


def test_a_metric_alone_keeps_its_name_and_long_runs_are_averaged():
    ((_, (chart,)),) = report_charts.training([{"step": step, "reward/mean": float(step)} for step in range(3000)])
    assert chart["title"] == "reward/mean" and len(chart["step"]) <= report_charts.MOST_POINTS
    assert chart["series"][0]["y"][0] == 1.0 and chart["note"] == "each point is the mean of 3 steps"


def test_the_verb_prints_the_result_and_where_the_page_is(finished, capsys):
    assert verb.main([f"--workdir={finished}"]) == 0
    result, path = capsys.readouterr().out.splitlines()
    assert result == report.result(finished) and path == str(finished / "report" / "index.html")


def test_a_workdir_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such workdir"):
        verb.main([f"--workdir={tmp_path / 'nowhere'}"])


@pytest.mark.parametrize(("kind", "clip"), [("grpo", 5.0), ("nft", 5.0), ("dppo", None)])
def test_the_clip_of_advantages_is_that_of_the_chosen_objective(kind, clip):
    config = presets.edit_r2()
    config.objective.image.kind = kind
    assert report.advantage_clip(config.to_dict()) == clip and report.advantage_clip({}) is None
