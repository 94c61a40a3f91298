"""The tiny base, stages 2 and 3: drawing and words on ground-truth sessions of the embedded world.

Run by launch/tiny_base.sh after stage 1, then once more as `:habit`:
    python -m editr2_jax train --config=configs/tabletop_supervised.py --workdir=DIR --config.model.checkpoint=FOLDER \\
        --config.data.path=DATA

Stage 2 teaches to draw, to describe the source picture, and to say what an instruction means. Stage 3 lets the rate fall to 0 and teaches a
habit: six of ten answers repeat the instruction instead of resolving it, so that there is something to learn from rewards. Its pictures
are drawn from the resolved intent all the same.

The base that ships was made so (stage 2 was stopped at step 3609) on two cores: 0.95 seconds a step in stage 2, 0.84 in stage 3 (medians,
other work beside them). Mean of every tenth step:
    stage 2, steps  600 to  699   flow loss 0.177   captions 0.91   intents 0.90
            1200 to 1299                 0.140            0.97           0.97
            2000 to 2099                 0.106            0.99           0.97
            2800 to 2899                 0.086            0.99           0.99
            3500 to 3599                 0.086            1.00           0.99
    stage 3, steps  900 to  999          0.064            1.00           0.97
Held-out IF of the base at turns 0 / 1 / 2: 0.72 / 0.50 / 0.43 (256 dialogues).

What it is made of, one run each: at 64x64 the last of 200 steps has flow loss 0.93 with AdamW at 2e-3 and 0.55 with Muon at 6e-3. At 48x48
with Muon, the mean of every tenth step from 100 to 149, 200 to 249 and 300 to 349 is 0.58, 0.33, 0.26 without captions (6000 sessions) and
0.43, 0.25, 0.20 with them (16000 sessions).
"""

from editr2_jax import presets

HABIT = {
    "supervised.repeat": 0.6,
    "optimizer.learning_rate": 2.8e-3,
    "optimizer.warmup_steps": 20,
    "optimizer.decay_steps": 1000,
    "loop.steps": 1000,
}


def get_config(variant: str = "drawing"):
    """The run's config. `variant`: drawing (stage 2) or habit (stage 3); another one raises ValueError."""
    config = presets.tabletop(presets.supervised())
    config.data.sessions = 8
    config.supervised.update(draws=4, drop_pictures=0.0, text_share=0.5)  # an image scale of 1, as in play, never asks for that branch
    config.optimizer.update(name="muon", learning_rate=6e-3, weight_decay=0.01, warmup_steps=100, decay_steps=7000)
    config.model.remat = "full"  # on a CPU, too, computing again is quicker than fetching what was kept
    config.loop.update(steps=3600, save_every=100, log_every=10, keep=1)
    return presets.on(config, variant, {"drawing": {}, "habit": HABIT})
