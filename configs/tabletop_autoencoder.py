"""The tiny base, stage 1: its autoencoder, on pictures of the embedded world.

Run by launch/tiny_base.sh, which makes the folder that model.checkpoint names first:
    python -m editr2_jax train --config=configs/tabletop_autoencoder.py --workdir=DIR --config.model.checkpoint=FOLDER

Measured at 48x48 pixels, two cores: 0.45 to 0.52 seconds a step of 8 pictures. 1000 steps over 6000 sessions end at l1 0.04 to 0.06 of a
range of 2, and ground-truth pictures passed through it score IF 0.85 / 0.82 / 0.78 a turn; 1600 more from there (another run, rate 3e-4)
end at 0.032 and score 0.98 / 0.95 / 0.94. The base that ships was made by those two runs; one run of 2600 steps was not tried.
"""

from editr2_jax import presets


def get_config():
    """The run's config."""
    config = presets.tabletop(presets.autoencoder())
    config.data.sessions = 8  # 8 pictures a step
    config.tabletop.update(train=16000, test=64)
    config.optimizer.update(learning_rate=2e-4, weight_decay=0.0, warmup_steps=50, decay_steps=2600)
    config.loop.update(steps=2600, save_every=200, log_every=20, keep=1)
    return config
