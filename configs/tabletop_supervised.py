"""The tiny base, stage 2: drawing and intent text on ground-truth sessions of the embedded world.

Run by launch/tiny_base.sh after stage 1:
    python -m editr2_jax train --config=configs/tabletop_supervised.py --workdir=DIR --config.model.checkpoint=FOLDER \\
        --config.data.path=DATA

Measured, laptop, two cores with other small jobs beside it: 48 minutes for 2200 steps of 8 sessions. Around step
100 / 250 / 400 / 680 / 1300 / 1700 / 2200: flow loss 1.10 / 0.64 / 0.36 / 0.25 / 0.20 / 0.19 / 0.17;
accuracy of the intent's tokens 0.63 / 0.74 / 0.77 / 0.79 / 0.83 / 0.87 / 0.88.
Neither has levelled off: longer training gives a better base. The other variant has not been run to its end.
"""

from editr2_jax import presets


def get_config(variant: str = "laptop"):
    """The run's config. `variant`: laptop or accelerator; another one raises ValueError."""
    config = presets.tabletop(presets.supervised())
    config.data.sessions = 8
    config.supervised.update(draws=4, drop_pictures=0.0, text_share=0.5)  # an image scale of 1, as in play, never asks for that branch
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.01, warmup_steps=100, decay_steps=2200)
    config.loop.update(steps=2200, save_every=100, log_every=10, keep=1)
    accelerator = {"data.sessions": 256, "loop.steps": 16000, "optimizer.decay_steps": 16000}
    return presets.on(config, variant, {"laptop": {}, "accelerator": accelerator})
