"""The tiny base, stage 1: its autoencoder, on pictures of the embedded world.

Run by launch/tiny_base.sh, which makes the folder that model.checkpoint names first:
    python -m editr2_jax train --config=configs/tabletop_autoencoder.py --workdir=DIR --config.model.checkpoint=FOLDER
"""

from editr2_jax import presets


def get_config(variant: str = "accelerator"):
    config = presets.autoencoder()
    config.data.sessions = 96  # 384 pictures a step
    config.tabletop.update(train=64000, test=64, workers=16)
    config.optimizer.update(learning_rate=1e-3, weight_decay=0.0, warmup_steps=200, decay_steps=12000)
    config.loop.update(steps=12000, save_every=3000, log_every=200, keep=1)
    return presets.on(config, variant, {"accelerator": {}, "laptop": {"data.sessions": 8, "tabletop.train": 8000, "tabletop.workers": 2}})
