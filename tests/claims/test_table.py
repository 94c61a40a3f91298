import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from editr2_jax.claims import table
from editr2_jax.claims.questions import Question

SEEDS = (0, 1, 2)


def records(rewards):
    """Scores of dialogues of two turns with these mean rewards."""
    return [
        {
            "session": f"d{i}", "subset": "plain", "turn": t, "task_type": "subject_add", "instruction": "go", "intent": None,
            "scores": {"if": float(reward), "cc": 1.0}, "status": {"if": "ok", "cc": "ok"}, "reward": float(reward), "detail": {},
        }
        for i, reward in enumerate(rewards) for t in range(2)
    ]  # fmt: skip


def outcomes(**arms):
    """Runs of arms whose rewards lie `gain[seed]` above a common draw."""
    base = np.random.default_rng(0).uniform(0.2, 0.6, (3, 40))
    return {
        (name, seed): table.Outcome(records=records(base[seed] + gain[seed]), pictures=100, minutes=2.0, cpu_minutes=3.0)
        for name, gain in arms.items()
        for seed in SEEDS
    }


ASKED = Question(name="q", asks="Is it better?", claimed="A paper: yes.", against="plain", arms=("new",), expected={"new": 1})


def made(gain):
    return table.make([ASKED], SEEDS, outcomes(plain=(0, 0, 0), new=gain))


@pytest.mark.parametrize(
    ("gain", "seen", "words"),
    [
        ((0.1, 0.1, 0.1), 1, "better: as claimed"),
        ((-0.1, -0.1, -0.1), -1, "worse: against the claim"),
        ((0.1, 0.1, -0.1), 0, "nothing seen"),
        ((0.0, 0.0, 0.0), 0, "nothing seen"),
        ((0.02, 0.1, 0.2), 0, "nothing seen"),  # all of one sign, but three seeds so far apart say little
    ],
)
def test_a_difference_counts_when_its_interval_and_every_seed_agree(gain, seen, words):
    (row,) = made(gain)["questions"][0]["rows"]
    assert row["seen"] == seen and table.verdict(row).startswith(words)
    np.testing.assert_allclose(row["mean"], np.mean(gain), atol=1e-9)
    np.testing.assert_allclose(row["by_seed"], gain, atol=1e-9)


def test_seeds_widen_an_interval_that_dialogues_alone_would_make_narrow():
    gap = np.repeat([[0.0], [0.1], [0.2]], 1000, axis=1)
    _, low, high = table.two_way_interval(gap)
    assert low < 0.05 and high > 0.15


def test_missing_rewards_leave_the_mean():
    assert table.two_way_interval(np.array([[0.1, np.nan], [0.3, np.nan]]))[0] == pytest.approx(0.2)


def test_runs_on_other_dialogues_are_not_compared():
    runs = outcomes(plain=(0, 0, 0), new=(0, 0, 0))
    runs["new", 1] = table.Outcome(records=records([0.5]), pictures=1, minutes=1.0, cpu_minutes=1.0)
    with pytest.raises(ValueError, match="new, seed 1, was scored on other dialogues"):
        table.make([ASKED], SEEDS, runs)


def test_the_files_are_written_and_can_be_read(tmp_path):
    path = table.write(tmp_path, made((0.1, 0.1, 0.1)), command="claims --out=DIR")
    text = path.read_text()
    assert "claims --out=DIR" in text and "| new |" in text and "as claimed" in text
    ElementTree.fromstring((tmp_path / "claims.svg").read_text())
    assert (tmp_path / "claims.json").exists()
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert columns == {11}
