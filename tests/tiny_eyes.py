"""Folders of DINOv3 and Grounding DINO as Hugging Face publishes them, with tiny random weights that transformers draws (with torch)."""

import json
from pathlib import Path

import numpy as np

WORDS = ("a red blue green black wooden cat dog cap hat cup table sign remote control the on ##s ! ? ' $ , 1 2 no st bernard").split()
DOT, QUESTION, CLS, SEP = 1012, 1029, 101, 102  # where Grounding DINO's code expects them, whatever the tokenizer
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int = 40, width: int = 56, *, seed: int = 0) -> np.ndarray:
    """A uint8 picture with large shapes and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3)).repeat(-(-height // 4), axis=0).repeat(-(-width // 5), axis=1)[:height, :width]
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def randomise(model, seed: int):
    """Every parameter drawn so that none is zero or one by its start: a swapped or forgotten one then shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            ones = parameter.ndim == 1 and name.endswith("weight") or "lambda1" in name
            parameter.copy_(1 + 0.2 * noise if ones else noise * (0.6 / max(1, parameter.shape[-1]) ** 0.5))
    return model.eval()


def dinov3_config(**changes) -> dict:
    """Settings of a tiny DINOv3 with the released switches (of ViT-S, B and L)."""
    base = {
        "patch_size": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 24,
        "num_register_tokens": 4,
        "pos_embed_rescale": 2.0,
    }
    return base | changes


GATED = {"use_gated_mlp": True, "hidden_act": "silu"}  # ViT-S+ and H+
LARGEST = GATED | {"query_bias": False, "value_bias": False}  # 7B


def dinov3(folder: Path, *, size: tuple[int, int] = (16, 24), seed: int = 0, shard: str | None = None, **changes) -> Path:
    """Writes a DINOv3 folder; size: (height, width) of its preprocessor. shard: the largest file, such as "30KB"."""
    import transformers

    model = randomise(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**dinov3_config(**changes))), seed)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "preprocessor_config.json").write_text(json.dumps(dinov3_preprocessor(*size), indent=1))
    return folder


def dinov3_preprocessor(height: int, width: int) -> dict:
    """As published, but for the size."""
    return {
        "crop_size": None,
        "data_format": "channels_first",
        "default_to_square": True,
        "do_center_crop": None,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "image_std": list(STD),
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }


def vocabulary() -> list[str]:
    """BERT's markers at their published ids, a few words behind them."""
    words = [f"[unused{number}]" for number in range(QUESTION + 1)]
    words[0], words[100], words[CLS], words[SEP], words[103] = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    words[DOT], words[QUESTION] = ".", "?"
    return words + [word for word in WORDS if word != "?"]


def grounding_dino(folder: Path, *, seed: int = 11, sides: tuple[int, int] = (80, 128), max_text_len: int = 24) -> Path:
    """Writes a Grounding DINO folder. sides: short one, and the most of the long one. With seed 11 a few boxes score much, most little."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    swin = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, out_indices=[2, 3, 4]
    )
    bert = transformers.BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    sizes = {"d_model": 32, "num_queries": 12, "max_text_len": max_text_len}
    each = {"layers": 2, "ffn_dim": 16, "attention_heads": 2}
    depth = {f"{part}_{what}": number for part in ("encoder", "decoder") for what, number in each.items()}
    config = transformers.GroundingDinoConfig(backbone_config=swin, text_config=bert, **sizes, **depth)
    model = randomise(transformers.GroundingDinoForObjectDetection(config), seed)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(detector_preprocessor(*sides), indent=1))
    return folder


def detector_preprocessor(short: int, long: int) -> dict:
    """As published, but for the sides (800 and 1333)."""
    return {
        "do_convert_annotations": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "format": "coco_detection",
        "image_mean": list(MEAN),
        "image_processor_type": "GroundingDinoImageProcessor",
        "image_std": list(STD),
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": long, "shortest_edge": short},
    }
