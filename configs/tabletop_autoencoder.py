"""The tiny base, stage 1: its autoencoder, on pictures of the embedded world.

Run by launch/tiny_base.sh, which makes the folder that model.checkpoint names first:
    python -m editr2_jax train --config=configs/tabletop_autoencoder.py --workdir=DIR --config.model.checkpoint=FOLDER

Measured, laptop, two cores with other small jobs beside it: 22 minutes for 1500 steps of 8 pictures. Mean l1, of a range of 2, around step
0 / 60 / 200 / 400 / 700 / 1150 / 1450: 0.14 / 0.125 / 0.092 / 0.071 / 0.057 / 0.044 / 0.040. The other variant has not been run to its end.
"""

from editr2_jax import presets


def get_config(variant: str = "laptop"):
    """The run's config. `variant`: laptop or accelerator; another one raises ValueError."""
    config = presets.autoencoder()
    config.data.update(sessions=8, remember=True)  # 8 pictures a step
    config.tabletop.update(train=6000, test=64)
    config.optimizer.update(learning_rate=2e-4, weight_decay=0.0, warmup_steps=50, decay_steps=1500)
    config.loop.update(steps=1500, save_every=200, log_every=20, keep=1)
    accelerator = {
        "data.sessions": 256,
        "tabletop.train": 64000,
        "tabletop.workers": 16,
        "loop.steps": 12000,
        "optimizer.decay_steps": 12000,
    }
    return presets.on(config, variant, {"laptop": {}, "accelerator": accelerator})
