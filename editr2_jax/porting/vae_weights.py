"""Names of the autoencoder's weights (ae.safetensors); paths are inside the model's `vae`."""

from __future__ import annotations

from editr2_jax.porting.rules import Rule


def _norm(path: str, key: str) -> list[Rule]:
    return [Rule(f"{path}.scale", f"{key}.weight"), Rule(f"{path}.bias", f"{key}.bias")]


def _conv(path: str, key: str, form: str = "conv") -> list[Rule]:
    return [Rule(f"{path}.w", f"{key}.weight", form), Rule(f"{path}.b", f"{key}.bias")]


def _residual(path: str, key: str) -> list[Rule]:
    return [
        *_norm(f"{path}.norm_1", f"{key}.norm1"),
        *_conv(f"{path}.conv_1", f"{key}.conv1"),
        *_norm(f"{path}.norm_2", f"{key}.norm2"),
        *_conv(f"{path}.conv_2", f"{key}.conv2"),
        *_conv(f"{path}.shortcut", f"{key}.nin_shortcut", "pointwise"),
    ]


def _half(side: str, levels: str, resample: str) -> list[Rule]:
    """Encoder or decoder: the two differ only in what leads from level to level."""
    attention = {"q": "q", "k": "k", "v": "v", "out": "proj_out"}
    middle = f"{side}.middle.attention", f"{side}.mid.attn_1"
    return [
        *_conv(f"{side}.enter", f"{side}.conv_in"),
        *_residual(f"{side}.levels.{{level}}.blocks.{{block}}", f"{side}.{levels}.{{level}}.block.{{block}}"),
        *_conv(f"{side}.levels.{{level}}.resample", f"{side}.{levels}.{{level}}.{resample}.conv"),
        *_residual(f"{side}.middle.before", f"{side}.mid.block_1"),
        *_norm(f"{middle[0]}.norm", f"{middle[1]}.norm"),
        *(rule for ours, theirs in attention.items() for rule in _conv(f"{middle[0]}.{ours}", f"{middle[1]}.{theirs}", "pointwise")),
        *_residual(f"{side}.middle.after", f"{side}.mid.block_2"),
        *_norm(f"{side}.norm", f"{side}.norm_out"),
        *_conv(f"{side}.leave", f"{side}.conv_out"),
    ]


RULES = (*_half("encoder", "down", "downsample"), *_half("decoder", "up", "upsample"))
