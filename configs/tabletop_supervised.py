"""The tiny base, stage 2: drawing and intent text on ground-truth sessions of the embedded world.

Run by launch/tiny_base.sh after stage 1:
    python -m editr2_jax train --config=configs/tabletop_supervised.py --workdir=DIR --config.model.checkpoint=FOLDER \\
        --config.data.path=DATA

Not yet run to its end. The base that ships comes from its forerunner (64x64 pixels, AdamW at 2e-3, no captions, 48 minutes for 2200
steps: flow loss 0.17, intents 0.88). What the changes are worth, one run each: at 64x64 the last of 200 steps has flow loss 0.93 with
AdamW at 2e-3 and 0.55 with Muon at 6e-3. At 48x48 with Muon, the mean of every tenth step from 100 to 149, 200 to 249 and 300 to 349 is
0.58, 0.33, 0.26 without captions (6000 sessions) and 0.43, 0.25, 0.20 with them (16000 sessions). This recipe, the mean of every tenth
step from 600 to 699, 900 to 999 and 1200 to 1299: flow loss 0.177, 0.148, 0.140; captions 0.91, 0.95, 0.97; intents 0.90, 0.93, 0.97.
"""

from editr2_jax import presets

HABIT = {  # stage 3
    "supervised.repeat": 0.6,
    "optimizer.learning_rate": 2.8e-3,
    "optimizer.warmup_steps": 20,
    "optimizer.decay_steps": 1000,
    "loop.steps": 1000,
}


def get_config(variant: str = "laptop"):
    """The run's config. `variant`: laptop, accelerator or habit; another one raises ValueError."""
    config = presets.tabletop(presets.supervised())
    config.data.sessions = 8
    config.supervised.update(draws=4, drop_pictures=0.0, text_share=0.5)  # an image scale of 1, as in play, never asks for that branch
    config.optimizer.update(name="muon", learning_rate=6e-3, weight_decay=0.01, warmup_steps=100, decay_steps=7000)
    config.model.remat = True  # on a CPU, too, computing again is quicker than fetching what was kept
    config.loop.update(steps=3600, save_every=100, log_every=10, keep=1)
    accelerator = {"data.sessions": 256, "loop.steps": 16000, "optimizer.decay_steps": 20000}
    return presets.on(config, variant, {"laptop": {}, "accelerator": accelerator, "habit": HABIT})
