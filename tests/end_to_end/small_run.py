"""The main job in miniature: two turns of a tiny model on six sessions of the embedded world. Needs --config.model.checkpoint=FOLDER."""

from editr2_jax import presets

VARIANTS = {
    "edit_r2": {},
    "supervised": {"recipe": "supervised", "train": "full", "data.group": 1, "data.sessions": 2, "tabletop.targets": True},
    "autoencoder": {
        "recipe": "autoencoder", "train": "full", "parts": ("vae",), "data.group": 1, "data.sessions": 2, "tabletop.targets": True,
    },
}  # fmt: skip


def get_config(variant: str = "edit_r2"):
    config = presets.tabletop(presets.edit_r2())
    config.data.update(sessions=1, group=2)
    config.tabletop.update(train=6, test=4, turns=2, size=(48, 48))
    config.lora.update(rank=2, alpha=4.0)
    config.rollout.turns = 2
    config.rollout.window.update(size=1, first=0, last=2)
    config.rollout.flow.grid_points = 4
    config.advantage.learn_from_fallback = True  # random weights never answer; so that words teach all the same
    config.optimizer.update(learning_rate=1e-3)
    config.step.update(rows=2)
    config.evaluate.update(sessions=2, rows=2, strips=2)
    config.loop.update(steps=6, save_every=2, record_every=2)
    return presets.on(config, variant, VARIANTS)
