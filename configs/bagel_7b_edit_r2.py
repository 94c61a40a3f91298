"""Edit-R2 on BAGEL-7B-MoT: three turns of 512x512 pixels, groups of six. Run, on every host:

    python -m editr2_jax train --config=configs/bagel_7b_edit_r2.py:v5e_16 --processes=auto --workdir=DIR \\
        --config.model.checkpoint=CHECKPOINT --config.data.path=SESSIONS

A variant is a piece of hardware, alone (the reference's recipe) or with `_recommended` behind it (ours): v5e_8, v5e_16, v5e_64, v5p_16 (8
chips), v6e_16, tpu7x_4 (4 chips), gpu_8 (one host of eight H100 or H200). What each needs of a chip, and the least time of a step:
`python -m editr2_jax plan --config=configs/bagel_7b_edit_r2.py:v5e_16 --topology=v5e:4x4`. The plans of editr2_jax/assets/plan say (a step
at the chip's full rates, from all that overlaps to nothing that does, and the share of its peak that would be):

    v5e_8    v5e:2x4       at most 13.44 of 15.75 GiB, a step  260 to 439 s, 79% of the peak
    v5e_16   v5e:4x4       at most 10.88 of 15.75 GiB, a step  130 to 219 s, 79% of the peak
    v5e_64   v5e:8x8       at most  9.69 of 15.75 GiB, a step  130 to 221 s, 80% of the peak
    v5p_16   v5p:2x2x2     at most 19.54 of 95.74 GiB, a step  107 to 146 s, 83% of the peak
    v6e_16   v6e:4x4       at most 10.22 of 31.24 GiB, a step   50 to 88 s, 44% of the peak
    tpu7x_4  tpu7x:2x2x1   at most 23.46 of 94.75 GiB, a step   52 to 110 s, 68% of the peak

All of this is of pictures of 512x512, as EdiVal-Bench's are and as the reference makes every other. Here those keep their shape and are
worked on at the size that BAGEL's rule gives each: list few in data.shapes, and plan for the largest (`plan --size`).

Never run: neither the weights nor the chips were at hand; what is known is what the compiler says. gpu_8 has no plan: programs for GPUs
are compiled where GPUs are (`--topology=here` on that host). What `_recommended` changes leaves shapes and passes as they are.

The reference's recipe as released: 16 dialogues x 6, 14 steps, two stochastic ones among the first seven at noise level 1.3, one baseline
for all turns, both losses clipped at 1e-5, KL 0.01, LoRA 64 on both experts, AdamW 1e-4, no gradient clip, two updates a step. Deviations:
windows are drawn from keys (there, a process keeps one for the whole run); evaluation takes as many steps as training (there 49); the end
token belongs to an intent; v5e_64 plays 64 dialogues a step, since six times sixteen rollouts do not share 64 chips evenly.
IF wants a detector and GA a judge, which are servers or checkpoints of your own: rewards.use=("if", "cc", "ga") with rewards.detector
(grounding_dino, http) and rewards.answerer (vlm), advantage.filter, and rewards.features=dinov3 for CC. As it stands the reward is content
consistency, seen through the checkpoint's own ViT, and nothing is filtered.
"""

from editr2_jax import presets

ON = {  # hardware: mesh, rollouts in one compiled pass, sessions of a step
    "v5e_8": {"step.rows": 24, "evaluate.rows": 24},
    "v5e_16": {"step.rows": 48, "evaluate.rows": 48},
    "v5e_64": {"step.rows": 192, "evaluate.rows": 192, "data.sessions": 64},
    "v5p_16": {"step.rows": 48, "evaluate.rows": 48},
    "v6e_16": {"step.rows": 48, "evaluate.rows": 48},
    "tpu7x_4": {"step.rows": 48, "evaluate.rows": 48},
    "gpu_8": {"step.rows": 24, "evaluate.rows": 24},
}

RECOMMENDED = {  # what held up on the embedded world (assets/claims), and what the reference's own numbers ask for
    "advantage.grouping": "dialogue_turn",
    "advantage.filter_first": True,
    "advantage.learn_from_fallback": False,
    "rollout.noise": "iteration",
    "rollout.window.first": 1,  # at t = 1 the step draws too much noise
    "objective.image.grpo.clip_low": 2e-4,
    "objective.image.grpo.clip_high": 2e-4,
    "objective.intent.grpo.clip_low": 0.2,
    "objective.intent.grpo.clip_high": 0.28,
    "optimizer.clip_norm": 1.0,
}


def get_config(variant: str = "v5e_16"):
    """The run's config. `variant`: one of ON, or one of them with `_recommended`; another one raises ValueError."""
    config = presets.edit_r2()
    config.model.update(checkpoint="BAGEL-7B-MoT", size="7b", dtype="bfloat16", remat="full")
    config.mesh.update(tensor=4, words="resident")  # four chips share the weights that words need: written one by one, nothing is gathered
    config.lora.update(rank=64, alpha=128.0)
    config.tabletop.size = (512, 512)  # of the pictures that are planned for; photographs keep their own shape
    config.data.update(path="sessions", sessions=16, group=6)
    config.rollout.update(turns=3, noise="dialogue", temperature=0.7)
    config.rollout.flow.update(grid_points=15, text_scale=4.0, image_scale=2.0)
    config.rollout.kernel.noise_level = 1.3
    config.rollout.window.update(size=2, first=0, last=7)
    config.rollout.slots.update(instruction=128, later=128, system=96, question=256, intent=150)
    config.rewards.update(use=("cc",), features="vit", detector="none")
    config.advantage.update(grouping="dialogue", filter="off", filter_first=False, learn_from_fallback=True)
    config.objective.image.kl_weight = 0.01
    config.objective.image.grpo.update(clip_low=1e-5, clip_high=1e-5)
    config.objective.intent.grpo.update(clip_low=1e-5, clip_high=1e-5)
    config.optimizer.update(learning_rate=1e-4, weight_decay=1e-4, clip_norm=0.0)
    config.step.updates = 2
    config.loop.update(steps=1000, save_every=1, keep=3, record_every=10)
    config.evaluate.update(sessions=240, every=50)
    hardware = variant.removesuffix("_recommended")
    presets.on(config, hardware, ON)
    return presets.on(config, "recommended", {"recommended": RECOMMENDED}) if variant != hardware else config
