"""The sizes of a BAGEL model: frozen records, three presets, and the folder of JSON files that a checkpoint travels with.

A checkpoint folder holds `llm_config.json` and `vit_config.json` with the field names of the release, and beside them either
`bagel_config.json` (all other numbers) or, as in the release itself, `config.json`; numbers that the release keeps in its code
instead of in a file (latent patch, VAE sizes, special token ids, picture sizes) are those of BAGEL-7B-MoT.
The last layer of the vision transformer is not used, so `VitConfig.layers` is one less than `num_hidden_layers` of the file.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from editr2_jax.resize_rule import ResizeRule

_7B_SCALARS = {
    "latent_patch_size": 2,
    "max_latent_size": 64,
    "vit_max_num_patch_per_side": 70,
    "connector_act": "gelu_pytorch_tanh",
    "interpolate_pos": False,
    "vae": {
        "resolution": 256,
        "in_channels": 3,
        "ch": 128,
        "out_ch": 3,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "z_channels": 16,
        "scale_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "special_tokens": {"bos_token_id": 151644, "eos_token_id": 151645, "start_of_image": 151652, "end_of_image": 151653},
    "vae_transform": {"max_size": 1024, "min_size": 512, "stride": 16},
    "vit_transform": {"max_size": 980, "min_size": 224, "stride": 14},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The language model: a Qwen2.5 decoder in which every block exists twice, once per expert."""

    width: int  # D, hidden size
    inner: int  # hidden size of the MLP
    layers: int
    heads: int  # query heads
    kv_heads: int  # key and value heads
    head_dim: int
    vocab: int
    rms_eps: float = 1e-6
    rope_theta: float = 1e6

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"DecoderConfig: {self.heads} query heads cannot share {self.kv_heads} key heads evenly; make heads a multiple of kv_heads."
            )
        if self.head_dim % 2:
            raise ValueError(f"DecoderConfig: head_dim {self.head_dim} is odd, but rotary positions pair the channels; make it even.")
        if self.width % 4:
            raise ValueError(f"DecoderConfig: width {self.width} must be a multiple of 4 for the 2D sin-cos tables.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    """The vision transformer that reads pictures (SigLIP, patches of any grid)."""

    width: int
    inner: int
    layers: int  # layers that run: one less than the file's num_hidden_layers
    heads: int
    patch: int = 14  # side of a patch, in pixels
    side: int  # positions per side of the learned table: image_size / patch
    channels: int = 3
    eps: float = 1e-6

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"VitConfig: width {self.width} is not a multiple of heads {self.heads}.")

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch: patch * patch * channels."""
        return self.patch * self.patch * self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The autoencoder between pixels and latents (FLUX)."""

    resolution: int  # training resolution; informative, every size works
    in_channels: int = 3
    width: int  # channels of the first level
    multipliers: tuple[int, ...]  # channels of level i: width * multipliers[i]
    blocks: int  # residual blocks per level of the encoder; the decoder has one more
    latent_channels: int = 16
    scale: float  # latent = scale * (mean - shift)
    shift: float
    out_channels: int = 3

    def __post_init__(self):
        bad = [self.width * m for m in self.multipliers if (self.width * m) % 32]
        if bad or self.width % 32:
            raise ValueError(f"VaeConfig: channels {bad or self.width} are no multiple of 32, the number of normalisation groups.")

    @property
    def downsample(self) -> int:
        """Pixels per latent position and side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the tokens that enclose text and pictures."""

    bos: int
    eos: int
    image_start: int
    image_end: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagelConfig:
    """All of BAGEL. `latent_side` and `vit_side` are the sides of the two fixed position tables, in tokens."""

    decoder: DecoderConfig
    vit: VitConfig
    vae: VaeConfig
    latent_patch: int = 2  # side of a latent token, in latent positions
    latent_side: int  # max_latent_size
    vit_side: int  # vit_max_num_patch_per_side
    tokens: SpecialTokens
    vae_transform: ResizeRule
    vit_transform: ResizeRule

    def __post_init__(self):
        if self.vit_side > self.vit.side:
            raise ValueError(
                f"BagelConfig: vit_side {self.vit_side} exceeds the learned table's side {self.vit.side}; position ids would fall outside. "
                "Lower vit_max_num_patch_per_side or raise image_size."
            )
        outside = [token for token in dataclasses.astuple(self.tokens) if not 0 <= token < self.decoder.vocab]
        if outside:
            raise ValueError(f"BagelConfig: special tokens {outside} lie outside the vocabulary of {self.decoder.vocab}.")

    @property
    def token_dim(self) -> int:
        """Numbers in one latent token: latent_patch^2 * latent channels."""
        return self.latent_patch**2 * self.vae.latent_channels

    @property
    def token_pixels(self) -> int:
        """Pixels per latent token and side."""
        return self.latent_patch * self.vae.downsample

    @classmethod
    def from_folder(cls, path: str | Path) -> "BagelConfig":
        """Reads llm_config.json, vit_config.json and bagel_config.json (or the release's config.json) from a folder.

        Raises FileNotFoundError for a missing file and ValueError for a missing or unsupported field, naming file and field.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give the folder that holds llm_config.json.")
        rest = _Fields.read(folder / "bagel_config.json") if (folder / "bagel_config.json").exists() else _release_scalars(folder)
        rest.refuse_unless(connector_act="gelu_pytorch_tanh", interpolate_pos=False)
        return cls(
            decoder=_decoder(_Fields.read(folder / "llm_config.json")),
            vit=_vit(_Fields.read(folder / "vit_config.json")),
            vae=_vae(rest.part("vae")),
            latent_patch=rest.get("latent_patch_size"),
            latent_side=rest.get("max_latent_size"),
            vit_side=rest.get("vit_max_num_patch_per_side"),
            tokens=_tokens(rest.part("special_tokens")),
            vae_transform=_resize_rule(rest.part("vae_transform")),
            vit_transform=_resize_rule(rest.part("vit_transform")),
        )

    def write_folder(self, path: str | Path) -> None:
        """Writes the three JSON files that `from_folder` reads; creates the folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, fields in (("llm", _llm_fields(self.decoder)), ("vit", _vit_fields(self.vit)), ("bagel", _bagel_fields(self))):
            (folder / f"{name}_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def bagel_7b() -> BagelConfig:
    """BAGEL-7B-MoT as released."""
    return BagelConfig(
        decoder=DecoderConfig(width=3584, inner=18944, layers=28, heads=28, kv_heads=4, head_dim=128, vocab=152064),
        vit=VitConfig(width=1152, inner=4304, layers=26, heads=16, patch=14, side=70),
        vae=_vae(_Fields("the 7B preset", _7B_SCALARS["vae"])),
        latent_side=64,
        vit_side=70,
        tokens=_tokens(_Fields("the 7B preset", _7B_SCALARS["special_tokens"])),
        vae_transform=ResizeRule(max_size=1024, min_size=512, stride=16),
        vit_transform=ResizeRule(max_size=980, min_size=224, stride=14),
    )


def mid() -> BagelConfig:
    """A model of about 60 million parameters for pictures of 128x128: one accelerator trains it in hours."""
    return BagelConfig(
        decoder=DecoderConfig(width=512, inner=1376, layers=8, heads=8, kv_heads=4, head_dim=64, vocab=4096),
        vit=VitConfig(width=384, inner=1536, layers=6, heads=6, patch=14, side=10),
        vae=VaeConfig(resolution=128, width=64, multipliers=(1, 2, 2, 2), blocks=1, scale=0.3611, shift=0.1159),
        latent_side=16,
        vit_side=10,
        tokens=SpecialTokens(bos=4088, eos=4089, image_start=4090, image_end=4091),
        vae_transform=ResizeRule(max_size=128, min_size=64, stride=16),
        vit_transform=ResizeRule(max_size=140, min_size=56, stride=14),
    )


def tiny() -> BagelConfig:
    """Every part, hardly any width: runs in seconds on a CPU. The configuration of tests/golden/bagel."""
    return BagelConfig(
        decoder=DecoderConfig(width=64, inner=144, layers=2, heads=4, kv_heads=2, head_dim=16, vocab=320),
        vit=VitConfig(width=48, inner=112, layers=2, heads=3, patch=14, side=10),
        vae=VaeConfig(resolution=64, width=32, multipliers=(1, 2, 1, 1), blocks=1, scale=0.3611, shift=0.1159),
        latent_side=8,
        vit_side=10,
        tokens=SpecialTokens(bos=311, eos=312, image_start=313, image_end=314),
        vae_transform=ResizeRule(max_size=96, min_size=32, stride=16),
        vit_transform=ResizeRule(max_size=84, min_size=28, stride=14),
    )


def tabletop() -> BagelConfig:
    """The size of the shipped base: about 4 million parameters, pictures of 48x48 in 9 latent tokens. Trains and edits on a CPU.

    The autoencoder has 96 channels where it meets pixels: with 64, its 32 normalisation groups hold two channels each, and of a plain
    background such a group remembers one sign. No residual blocks on the way down: pixels are what costs time.
    """
    return BagelConfig(
        decoder=DecoderConfig(width=128, inner=384, layers=5, heads=4, kv_heads=2, head_dim=32, vocab=480),
        vit=VitConfig(width=96, inner=256, layers=2, heads=3, patch=16, side=8),
        vae=VaeConfig(resolution=64, width=96, multipliers=(1, 1, 1, 1), blocks=0, scale=1.0, shift=0.0),
        latent_side=8,
        vit_side=8,
        tokens=SpecialTokens(bos=476, eos=477, image_start=478, image_end=479),
        vae_transform=ResizeRule(max_size=96, min_size=48, stride=16),
        vit_transform=ResizeRule(max_size=96, min_size=48, stride=16),
    )


PRESETS = {"7b": bagel_7b, "mid": mid, "tiny": tiny, "tabletop": tabletop}


class _Fields:
    """A JSON object that can say which file and field is wrong."""

    def __init__(self, where: str, values: dict[str, Any]):
        self.where, self.values = where, values

    @classmethod
    def read(cls, path: Path) -> "_Fields":
        """The object of a JSON file. Raises FileNotFoundError or ValueError naming the file."""
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file; a checkpoint folder holds llm_config.json, vit_config.json and bagel_config.json (or config.json)."
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not readable as JSON ({error}); the file is damaged or cut short, copy it again.") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object with named fields, got {type(values).__name__}.")
        return cls(str(path), values)

    def get(self, name: str, default: Any = None) -> Any:
        """The field; raises ValueError when it is missing and there is no default."""
        value = self.values.get(name, default)
        if value is None:
            raise ValueError(f"{self.where}: field '{name}' is missing; add it.")
        return value

    def part(self, name: str) -> "_Fields":
        value = self.get(name)
        if not isinstance(value, dict):
            raise ValueError(f"{self.where}: field '{name}' must be an object with named fields, got {value!r}.")
        return _Fields(f"{self.where}: {name}", value)

    def refuse_unless(self, **implemented: Any) -> None:
        """Raises ValueError when a field says something else than the one value that is implemented; absent is fine."""
        for name, value in implemented.items():
            if self.values.get(name, value) != value:
                raise ValueError(f"{self.where}: '{name}' is {self.values[name]!r}; only {value!r} is implemented.")


def _release_scalars(folder: Path) -> _Fields:
    """The numbers of the 7B release; those that its config.json repeats are taken from there."""
    scalars, where = dict(_7B_SCALARS), f"{folder} (without bagel_config.json, numbers of the 7B release)"
    if (folder / "config.json").exists():
        told = _Fields.read(folder / "config.json").values
        scalars.update({name: told[name] for name in scalars if told.get(name) is not None and not isinstance(scalars[name], dict)})
        where = str(folder / "config.json")
    return _Fields(where, scalars)


def _decoder(fields: _Fields) -> DecoderConfig:
    fields.refuse_unless(hidden_act="silu")
    width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    return DecoderConfig(
        width=width,
        inner=fields.get("intermediate_size"),
        layers=fields.get("num_hidden_layers"),
        heads=heads,
        kv_heads=fields.get("num_key_value_heads"),
        head_dim=fields.get("head_dim", width // heads),
        vocab=fields.get("vocab_size"),
        rms_eps=fields.get("rms_norm_eps"),
        rope_theta=fields.get("rope_theta"),
    )


def _vit(fields: _Fields) -> VitConfig:
    fields.refuse_unless(hidden_act="gelu_pytorch_tanh")
    patch, image_size = fields.get("patch_size"), fields.get("image_size")
    return VitConfig(
        width=fields.get("hidden_size"),
        inner=fields.get("intermediate_size"),
        layers=fields.get("num_hidden_layers") - 1,  # the official loader drops the last layer
        heads=fields.get("num_attention_heads"),
        patch=patch,
        side=image_size // patch,
        channels=fields.get("num_channels", 3),
        eps=fields.get("layer_norm_eps", 1e-6),  # the release's file leaves it to the class default
    )


def _vae(fields: _Fields) -> VaeConfig:
    config = VaeConfig(
        resolution=fields.get("resolution"),
        in_channels=fields.get("in_channels"),
        width=fields.get("ch"),
        multipliers=tuple(fields.get("ch_mult")),
        blocks=fields.get("num_res_blocks"),
        latent_channels=fields.get("z_channels"),
        scale=fields.get("scale_factor"),
        shift=fields.get("shift_factor"),
        out_channels=fields.get("out_ch"),
    )
    told = fields.get("downsample", config.downsample)
    if told != config.downsample:
        raise ValueError(f"{fields.where}: downsample is {told}, but {len(config.multipliers)} levels in ch_mult give {config.downsample}.")
    return config


def _tokens(fields: _Fields) -> SpecialTokens:
    bos, eos = fields.get("bos_token_id"), fields.get("eos_token_id")
    return SpecialTokens(bos=bos, eos=eos, image_start=fields.get("start_of_image"), image_end=fields.get("end_of_image"))


def _resize_rule(fields: _Fields) -> ResizeRule:
    return ResizeRule(max_size=fields.get("max_size"), min_size=fields.get("min_size"), stride=fields.get("stride"))


def _llm_fields(config: DecoderConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
    }


def _vit_fields(config: VitConfig) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers + 1,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.side * config.patch,
        "num_channels": config.channels,
        "layer_norm_eps": config.eps,
    }


def _bagel_fields(config: BagelConfig) -> dict[str, Any]:
    vae, tokens = config.vae, config.tokens
    return {
        "latent_patch_size": config.latent_patch,
        "max_latent_size": config.latent_side,
        "vit_max_num_patch_per_side": config.vit_side,
        "connector_act": "gelu_pytorch_tanh",
        "interpolate_pos": False,
        "vae": {
            "resolution": vae.resolution,
            "in_channels": vae.in_channels,
            "downsample": vae.downsample,
            "ch": vae.width,
            "out_ch": vae.out_channels,
            "ch_mult": list(vae.multipliers),
            "num_res_blocks": vae.blocks,
            "z_channels": vae.latent_channels,
            "scale_factor": vae.scale,
            "shift_factor": vae.shift,
        },
        "special_tokens": {
            "bos_token_id": tokens.bos,
            "eos_token_id": tokens.eos,
            "start_of_image": tokens.image_start,
            "end_of_image": tokens.image_end,
        },
        "vae_transform": dataclasses.asdict(config.vae_transform),
        "vit_transform": dataclasses.asdict(config.vit_transform),
    }
