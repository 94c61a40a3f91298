"""The package editr2_jax: `pip install -e .` for a laptop, with extras for accelerators and for developers."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="editr2_jax",
    version="0.1.0",
    description="Reinforcement learning of multi-turn image editing for unified multimodal models, in JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["editr2_jax", "editr2_jax.*"]),
    package_data={"editr2_jax": ["assets/**/*", "evaluation/report_assets/*"]},
    entry_points={"console_scripts": ["editr2 = editr2_jax.cli.main:main"]},
    install_requires=[  # the lower bounds are the versions that the tests run with
        "absl-py>=2.5.1",
        "array-record>=0.8.6",
        "clu>=0.0.12",
        "einops>=0.8.2",
        "etils[epath]>=1.15.0",
        "flax>=0.12.8",
        "fsspec>=2026.9.0",
        "grain>=0.2.18",
        "httpx2>=2.16.2",
        "jax>=0.10.2",
        "jaxtyping>=0.3.11",
        "ml-collections>=1.1.0",
        "ml-dtypes>=0.6.0",
        "msgpack>=1.2.4",
        "numpy>=2.4.6",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "packaging>=26.4",
        "pillow>=13.0.0",
        "scipy>=1.17.1",
        "tensorflow-datasets>=4.9.10",
        "tensorstore>=0.1.86",
        "tokenizers>=0.23.3",
        "transformers>=5.23.0",
    ],
    extras_require={
        "cpu": [],
        "tpu": ["jax[tpu]"],
        "plan": ["jax[tpu]"],  # libtpu compiles for chips that are not there
        "cuda": ["jax[cuda13]"],
        "serve": ["starlette>=1.10.0", "uvicorn>=0.54.0"],  # a detector or features behind HTTP
        "parity": ["torch>=2.13.0", "peft>=0.21.2", "safetensors>=0.8.0"],  # only to run the PyTorch code beside ours
        # Grounding DINO and DINOv3 by their PyTorch models; transformers' own server of a vision-language model
        "judges": ["torch>=2.13.0", "torchvision>=0.28.0", "transformers[serving]>=5.24.0"],
        "gs": ["gcsfs>=2026.10.1"],  # gs:// addresses of checkpoints and session folders
        "photos": ["scikit-image>=0.26.0"],  # carries a few real photographs
        "notebooks": ["ipykernel>=7.4.0", "matplotlib>=3.11.2"],
        "dev": [
            "hypothesis>=6.170.15",
            "ipykernel>=7.4.0",
            "jsonschema>=4.26.0",
            "matplotlib>=3.11.2",
            "nbclient>=0.11.0",
            "nbformat>=5.11.1",
            "pytest>=9.2.0",
            "pytest-xdist>=3.8.0",
            "pyyaml>=6.0.4",
            "ruff>=0.17.5",
            "scikit-image>=0.26.0",
            "starlette>=1.10.0",
            "uvicorn>=0.54.0",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
