"""An exported adapter in PEFT itself: loaded onto PyTorch layers it computes what ours computes, and what PEFT wrote comes back to us."""

import warnings

import bagel_cases as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from editr2_jax.models import lora
from editr2_jax.models.bagel import bagel
from editr2_jax.models.bagel.mot_decoder import View
from editr2_jax.porting import adapter, export

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from torch_bagel import TorchBagel  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.slow]

IDS, GRID, TIME = np.array([311, 5, 9, 77, 312]), (2, 3), 0.7
LATENTS = np.asarray(jax.random.normal(jax.random.key(1), (6, 64)), np.float32)


@pytest.fixture(scope="module")
def base():
    """The recorded weights in PyTorch, by name; PEFT changes what it wraps, so everybody takes a copy."""
    weights = {name: torch.from_numpy(tensor) for name, tensor in load_file(golden.FOLDER / "ema.safetensors").items()}

    def make():
        model = TorchBagel(golden.model().config)
        told = model.load_state_dict(weights, strict=False)
        assert not told.missing_keys
        assert all(key.startswith(("vit_", "connector.")) for key in told.unexpected_keys), "all but the seeing half"
        return model.eval()

    return make


def ours(model) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the text, and the velocity of latents behind it."""
    ids, words = jnp.asarray(IDS)[None], len(IDS)
    empty = bagel.empty_cache(model.config, rows=1, capacity=words)
    everything = jnp.ones((1, 1, words), bool)
    hidden, _ = model.read_text(ids[:, None], valid=everything, start=jnp.zeros((1, 1), jnp.int32), views=())
    cache = model.append_text(empty, ids, jnp.full((1,), words))
    view = View(k=cache.k, v=cache.v, visible=cache.valid[:, None])
    start = jnp.full((1, 1), words)
    velocity = model.velocity(jnp.asarray(LATENTS)[None, None], jnp.full((1, 1), TIME), grid=GRID, start=start, views=(view,))
    return np.asarray(model.logits(hidden))[0, 0], np.asarray(velocity)[0, 0]


def theirs(model) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = model(torch.tensor(IDS), torch.tensor(LATENTS), TIME, GRID)
    return tuple(tensor.numpy() for tensor in found)


def worn(sizes: dict[str, tuple[int, float]]):
    """The recorded model with adapters of these (rank, alpha) by dotted path that change much."""
    model = nnx.clone(golden.model())
    for path, linear in lora.linears(model):
        if path in sizes:
            linear.attach(*sizes[path], jax.random.key(len(path)))
            linear.lora_b[...] = 0.2 * jax.random.normal(jax.random.key(len(path) + 1), linear.lora_b.shape)
    return model


def with_peft(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of missing keys, and goes on
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return peft.PeftModel.from_pretrained(base(), str(folder)).eval()


def same(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


EXPERTS = {f"decoder.layers.{expert}.{part}" for expert in ("und", "gen") for part in ("q", "k", "v", "o", "gate", "up", "down")}
SIZES = {
    "both experts": dict.fromkeys(sorted(EXPERTS), (3, 6.0)),
    "the drawing expert": {path: (4, 8.0) for path in EXPERTS if ".gen." in path},
    "sizes of their own": {"decoder.layers.gen.q": (2, 6.0), "decoder.layers.gen.down": (5, 6.0), "decoder.layers.und.up": (2, 1.0)},
}


def test_the_pytorch_model_is_the_one_that_ours_is(base):
    same(theirs(base()), ours(golden.model()))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_an_exported_adapter_computes_the_same_in_peft(base, tmp_path, sizes):
    model = worn(sizes)
    export.write_adapter(model, tmp_path, base="a/base")
    wrapped = with_peft(base, tmp_path)
    adapted = sum(name.endswith("lora_A.default") for name, _ in wrapped.named_modules())
    assert adapted == len(sizes) * model.config.decoder.layers
    expected = ours(model)
    same(theirs(wrapped), expected)
    same(theirs(wrapped.merge_and_unload()), expected)
    velocity = ours(golden.model())[1]
    assert np.abs(expected[1] - velocity).max() > 0.1, "the adapter does something"


def test_an_adapter_that_peft_wrote_computes_the_same_in_ours(base, tmp_path):
    """Rank and alpha by patterns, as PEFT matches them: the first key that is the end of a name."""
    targets = ["q_proj_moe_gen", "mlp_moe_gen.down_proj", "self_attn.v_proj"]
    patterns = {"rank_pattern": {"down_proj": 6}, "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 2}}
    wrapped = peft.get_peft_model(base(), peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False, **patterns))
    wrapped.save_pretrained(str(tmp_path))
    model = adapter.load(golden.model(), tmp_path)
    sizes = {path: (linear.lora_a.shape[-1], linear.lora_scale) for path, linear in lora.linears(model) if linear.lora_a is not None}
    assert sizes == {"decoder.layers.gen.q": (4, 3.0), "decoder.layers.gen.down": (6, 2.0), "decoder.layers.und.v": (4, 0.5)}
    same(ours(model), theirs(wrapped.eval()))
