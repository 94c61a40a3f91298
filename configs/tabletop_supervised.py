"""The tiny base, stage 2: drawing and intent text on ground-truth sessions of the embedded world.

Run by launch/tiny_base.sh after stage 1:
    python -m editr2_jax train --config=configs/tabletop_supervised.py --workdir=DIR --config.model.checkpoint=FOLDER --config.data.path=DATA
"""

from editr2_jax import presets


def get_config(variant: str = "accelerator"):
    config = presets.tabletop(presets.supervised())
    config.data.sessions = 256
    config.tabletop.update(train=64000, test=64, workers=16)
    config.supervised.update(draws=4)
    config.optimizer.update(learning_rate=1.5e-3, weight_decay=0.01, warmup_steps=500, decay_steps=16000)
    config.loop.update(steps=16000, save_every=2000, log_every=100, keep=1)
    return presets.on(config, variant, {"accelerator": {}, "laptop": {"data.sessions": 16, "tabletop.train": 8000, "tabletop.workers": 2}})
