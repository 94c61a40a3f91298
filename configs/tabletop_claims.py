"""What the runs behind the claims have in common: the main job of the embedded world, shorter. Run: python -m editr2_jax claims --out=DIR

An arm changes a few values of it (editr2_jax/claims/questions.py). One run: 10 steps of 64 rollouts, then 128 held-out dialogues.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location("tabletop_edit_r2", pathlib.Path(__file__).with_name("tabletop_edit_r2.py"))
_main_job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_main_job)


def get_config():
    """The common config."""
    config = _main_job.get_config()
    config.loop.update(steps=10, save_every=5, record_every=100, record_groups=1)
    config.evaluate.update(sessions=128, before=False, strips=4)
    return config
