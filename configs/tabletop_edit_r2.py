"""Edit-R2 on the embedded world: the main job of a laptop. Run: bash launch/local.sh, or
    python -m editr2_jax train --config=configs/tabletop_edit_r2.py --workdir=DIR

Three turns; intent reconstruction before each later one; LoRA on both experts; rewards IF, CC and GA/CU from pixels. Our recommended
settings: one baseline per turn, the filter masks pictures alone and before the statistics, separate clips for words and pictures.
Held-out reward 0.639 -> 0.722 on seed 0, paired 95 % interval +0.063 to +0.104; 12 seconds a step on two cores.
The variant `reference` has the reference's baseline, filter and clips. Its windows are drawn from keys and its initial noise is new in
every iteration; in the reference a process keeps one window for the whole run, and a dialogue one noise (`rollout.noise=dialogue`).
The variant `claims` is the common part of the runs behind the claims (python -m editr2_jax claims): 10 steps, then 128 dialogues.
"""

from editr2_jax import presets

REFERENCE = {
    "advantage.grouping": "dialogue",
    "advantage.filter": "all",
    "advantage.filter_first": False,
    "advantage.learn_from_fallback": True,
    "objective.image.grpo.clip_low": 1e-5,
    "objective.image.grpo.clip_high": 1e-5,
    "objective.intent.grpo.clip_low": 1e-5,
    "objective.intent.grpo.clip_high": 1e-5,
    "step.updates": 2,
    "step.rows": 32,  # two batches, one for each update
}

CLAIMS = {
    "loop.steps": 10,
    "loop.save_every": 5,
    "loop.record_every": 100,
    "evaluate.sessions": 128,
    "evaluate.before": False,
}


def get_config(variant: str = "recommended"):
    """The run's config. `variant`: recommended, reference or claims; another one raises ValueError."""
    config = presets.tabletop(presets.edit_r2())
    config.data.update(sessions=8, group=8)
    config.tabletop.update(train=2048, test=256)
    config.lora.update(rank=16, alpha=32.0)
    config.rollout.kernel.noise_level = 0.9
    config.rollout.window.first = 1  # at t = 1 the step draws too much noise
    config.rollout.temperature = 0.9
    config.objective.image.update(kl_weight=0.01)
    config.objective.image.grpo.update(clip_low=2e-4, clip_high=2e-4)
    config.objective.intent.grpo.update(clip_low=0.2, clip_high=0.28)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=2)
    config.step.update(updates=1, rows=64)
    config.loop.update(steps=16, save_every=4, record_every=5, record_groups=2)
    config.evaluate.update(sessions=256, rows=64)
    return presets.on(config, variant, {"recommended": {}, "reference": REFERENCE, "claims": CLAIMS})
