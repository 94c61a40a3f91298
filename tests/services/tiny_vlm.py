"""Writes a Qwen2.5-VL of a few hundred thousand random weights, with all the files that a server wants. Nothing is downloaded.

    python tests/services/tiny_vlm.py DIR && transformers serve DIR --port 8000

Its answers are nonsense at the speed of nothing: a rehearsal of everything between a run and its judge. Wants torch and torchvision.
"""

from __future__ import annotations

import sys
from pathlib import Path

MARKERS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# Qwen2.5-VL's form of a conversation: one marker stands for each picture, and the processor repeats it as often as the picture has tokens.
TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}\
{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in part %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write(folder: Path, *, seed: int = 0) -> None:
    """config.json, model.safetensors, tokenizer, processor. The same files for the same seed."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=MARKERS[0], eos_token=MARKERS[2], additional_special_tokens=list(MARKERS)
    )
    number = {marker: tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_parameters": rope,
        "tie_word_embeddings": False, "initializer_range": 0.5,  # so large that the answer depends on the pictures
        "bos_token_id": number["<|endoftext|>"], "eos_token_id": number["<|im_end|>"], "pad_token_id": number["<|endoftext|>"],
    }  # fmt: skip
    sight = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=sight,
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    pictures = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 28 * 28, "longest_edge": 512 * 512}}
    transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pictures),
        video_processor=transformers.Qwen2VLVideoProcessor(**pictures),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/services/tiny_vlm.py DIR")
    write(Path(sys.argv[1]))
