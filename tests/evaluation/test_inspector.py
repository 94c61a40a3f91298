"""The inspector's data: what the index says about a rollout, and what a block keeps of it."""

import json

import pytest

from editr2_jax.evaluation import inspector, recorded_run, tables
from tests.evaluation import fake_workdir


def turn(score: float | None = 1.0, **more) -> dict:
    status = {"if": "ok" if score is not None else "judge_format_error"}
    return {"scores": {"if": score}, "status": status, "reward": score, "image_learns": True, "picture": None} | more


def run(*rollouts: list[dict], config: dict | None = None, **more) -> recorded_run.Run:
    """A run with one recorded session."""
    said = [{"instruction": f"edit {t}", "formatted_instruction": f"[edit] {t}", "task_type": "subject_add"} for t in range(3)]
    group = {"session": {"id": "a", "subset": "plain", "turns": said}, "source": None, "rollouts": [{"turns": turns} for turns in rollouts]}
    parts = {"name": "run", "versions": {}, "metrics": [], "evaluations": [], "recorded_steps": 1, "notices": []}
    return recorded_run.Run(config=config or {}, sessions=[{"step": 7, "groups": [group]}], **parts | more)


def row(turns: list[dict], **more) -> dict:
    """What the index says about one rollout."""
    index, _ = inspector.read(run(turns, **more))
    (group,) = index["groups"]
    return dict(zip(index["fields"], group["rollouts"][0], strict=True))


def test_the_first_failure_is_the_first_turn_at_or_below_the_filter_s_floor():
    assert row([turn(1.0), turn(0.0), turn(0.0)])["first_failure"] == 1
    assert row([turn(1.0), turn(0.3), turn(1.0)])["first_failure"] is None
    assert row([turn(1.0), turn(0.3), turn(1.0)], config={"advantage": {"filter_reward": "if", "floor": 0.3}})["first_failure"] == 1
    assert row([turn(0.0)], config={"advantage": {"filter_reward": "cc"}})["first_failure"] is None
    assert row([turn(None)])["first_failure"] is None, "no verdict is no failure"


def test_a_missing_verdict_is_one_that_was_due():
    beside = turn(1.0, scores={"if": 1.0, "ga": None}, status={"if": "ok", "ga": "not_applicable"})
    unmeasured = turn(1.0, scores={"if": 1.0, "cc": None}, status={"if": "ok", "cc": "unmeasurable"})
    assert row([beside, turn(None), unmeasured])["missing"] == 2


def test_troubles_are_counted_by_turn():
    told = row([turn(image_learns=False), turn(intent_fallback=True, changed=0.001), turn(changed=0.2)])
    assert (told["filtered"], told["fallback"], told["copies"], told["rewards"]) == (1, 1, 1, [1.0, 1.0, 1.0])
    assert row([{"picture": None}])["missing"] == 1, "a record without a reward opens"


def test_a_block_keeps_all_that_is_known_and_says_nothing_twice():
    tokens = [{"text": "do", "log_prob": -0.123456789, "ratio": None}]
    index, (block,) = inspector.read(run([turn(0.5, tokens=tokens, kl=None, window={"steps": [1], "t": [0.5]})]))
    assert index["groups"][0]["said"][0] == ["edit 0", "subject_add"] and block["formatted"][0] == "[edit] 0"
    ((told,),) = block["rollouts"]
    assert told["tokens"] == [["do", -0.1234568, None]] and told["window"] == {"steps": [1], "t": [0.5]} and "kl" not in told


def test_held_out_sessions_are_paired_and_point_to_the_strips(tmp_path):
    root = fake_workdir.build(tmp_path / "run", sessions=10)
    read = recorded_run.read(root)
    index, blocks = inspector.read(read)
    held = [(group, block) for group, block in zip(index["groups"], blocks, strict=True) if group["where"] == "held-out"]
    assert [group["id"] for group, _ in held] == [f"test/{number:04d}" for number in range(10)]
    group, block = held[3]
    assert [one[0] for one in group["rollouts"]] == [0, 60] and block["source"] == "@strip-0-3-source"
    assert [turn["picture"] for turn in block["rollouts"][1]] == [f"@strip-60-3-{t}" for t in range(3)]
    assert "instruction" not in block["rollouts"][0][0] and held[9][1]["source"] is None, "of eight sessions pictures were kept"


@pytest.mark.parametrize("gone", ["eval/0", "eval/60", "sessions", "eval/60/strips.json"])
def test_a_run_in_progress_has_what_there_is(tmp_path, gone):
    root = fake_workdir.build(tmp_path / "run", sessions=4)
    (root / gone).rename(tmp_path / "gone")
    index, blocks = inspector.read(recorded_run.read(root))
    assert len(blocks) == len(index["groups"]) > 0
    json.dumps(tables.plain([index, blocks]))
