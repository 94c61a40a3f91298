"""Records tiny random DINOv3 checkpoints and what transformers makes of a few pictures with them, beside this file.

PYTHONPATH=tests python tests/golden/dinov3/record.py      # with torch, torchvision and transformers installed
"""

from pathlib import Path

import numpy as np
import safetensors.numpy
import tiny_eyes
import torch
import transformers

HERE = Path(__file__).parent
CASES = {  # name -> settings of tiny_eyes.dinov3
    "plain": {"seed": 1, "size": (16, 24), "hidden_size": 24, "num_hidden_layers": 2},  # heads of 12 channels
    "gated": {"seed": 2, "size": (24, 20), "num_hidden_layers": 2, "shard": "45KB", **tiny_eyes.LARGEST},
}
PICTURES = (tiny_eyes.picture(40, 56), tiny_eyes.picture(33, 18, seed=1), tiny_eyes.picture(9, 70, seed=2))


def main() -> None:
    for name, settings in CASES.items():
        folder = tiny_eyes.dinov3(HERE / name, **settings)
        processor = transformers.DINOv3ViTImageProcessor.from_pretrained(folder)
        model = transformers.DINOv3ViTModel.from_pretrained(folder).eval()
        pixels = processor(images=list(PICTURES), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        with torch.inference_mode():
            tokens = model(pixel_values=pixels).last_hidden_state
        arrays = {f"picture_{number}": picture for number, picture in enumerate(PICTURES)}
        arrays |= {"pixels": np.ascontiguousarray(pixels.numpy().transpose(0, 2, 3, 1)), "tokens": tokens.numpy()}
        safetensors.numpy.save_file(arrays, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
