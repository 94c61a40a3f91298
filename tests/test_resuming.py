"""What may change between two starts of a run, and what a half-done step of it depends on."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from editr2_jax import presets, resuming
from editr2_jax.cli import common
from editr2_jax.runtime import workdir

CONFIG = Path(__file__).parents[1] / "configs" / "tabletop_edit_r2.py"


def config(*values):
    return common.load_config(str(CONFIG), values)


def test_what_may_change_is_there_and_decides_no_verdict():
    names = workdir.flat(presets.edit_r2().to_dict())
    assert set(resuming.RESUMABLE) <= set(names) and len(set(resuming.RESUMABLE)) == len(resuming.RESUMABLE)
    assert resuming.judging(config()) == resuming.judging(config(("rewards.workers", "32"), ("rewards.max_error_share", "0.2")))
    assert resuming.judging(config()) != resuming.judging(config(("rewards.inset", "0")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("mesh.tensor", "4"), ("mesh.words", "resident"), ("step.rows", "32"), ("evaluate.rows", "32"), ("model.remat", "full")),
        *(("hosts.silence_s", "300"), ("rewards.workers", "32"), ("rewards.max_error_share", "0.2"), ("data.remember", "false")),
        ("loop.keep_every", "4"),
        ("loop.save_frozen", "true"),
    ],
)
def test_a_run_goes_on_on_other_machines_and_with_more_patience(tmp_path, name, value):
    """What messages advise to change, and what another slice or a busier one needs."""
    common.claim_workdir(str(tmp_path), config(), may_change=resuming.RESUMABLE)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    common.claim_workdir(str(tmp_path), config((name, value)), may_change=resuming.RESUMABLE)
    assert workdir.flat(workdir.read_json(tmp_path / "config.json"))[name] == workdir.flat(common.plain(config((name, value))))[name]
    with pytest.raises(ValueError, match="lora.rank was"):
        common.claim_workdir(str(tmp_path), config((name, value), ("lora.rank", "3")), may_change=resuming.RESUMABLE)


def test_a_half_done_rollout_belongs_to_its_layout_and_not_to_its_patience():
    of = lambda *values: (resuming._deciding(config(*values)), resuming._hardware(config(*values)))  # noqa: E731
    assert of() == of(("hosts.silence_s", "300"), ("rewards.workers", "32"), ("loop.steps", "99"))
    assert of() != of(("mesh.rollout", "tensor")) and of()[0] == of(("mesh.rollout", "tensor"))[0]
    assert of() != of(("step.rows", "32")) and of() != of(("rollout.turns", "2"))


def test_a_run_keeps_its_latest_checkpoints_and_those_of_round_steps(tmp_path):
    chosen = config(("loop.keep", "1"), ("loop.keep_every", "2"))
    alone, model = SimpleNamespace(index=0, count=1), SimpleNamespace(layouts=None)
    with resuming.Keeper(chosen, tmp_path, model, hosts=alone, say=print) as keeper:
        for step in range(1, 6):
            keeper.checkpoints.save(step, {"x": np.zeros(1)}, {})
        assert keeper.checkpoints.steps() == [2, 4, 5]
