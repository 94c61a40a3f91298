"""BAGEL's language model and latent tokens in PyTorch, small enough to read at once: what PEFT needs to wrap.

Module names are those of the release, so its weights load by name and an adapter's names meet their modules. It reads one text segment and
then a block of noisy latents between its two markers, in one pass: what ours does in two, with a cache between.
"""

import math

import torch
from torch import nn


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


class Norm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Both experts' projections; one attention over all tokens."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        for end in ("", "_moe_gen"):
            self.add_module(f"q_proj{end}", linear(c.width, c.heads * c.head_dim, bias=True))
            self.add_module(f"k_proj{end}", linear(c.width, c.kv_heads * c.head_dim, bias=True))
            self.add_module(f"v_proj{end}", linear(c.width, c.kv_heads * c.head_dim, bias=True))
            self.add_module(f"o_proj{end}", linear(c.heads * c.head_dim, c.width))
            self.add_module(f"q_norm{end}", Norm(c.head_dim, c.rms_eps))
            self.add_module(f"k_norm{end}", Norm(c.head_dim, c.rms_eps))

    def forward(self, x, gen, positions, mask):
        c, tokens = self.c, x.shape[0]
        q, k, v = (by_expert(self, f"{part}_proj", x, gen).reshape(tokens, -1, c.head_dim) for part in "qkv")
        q, k = by_expert(self, "q_norm", q, gen), by_expert(self, "k_norm", k, gen)
        q, k = rotate(q, positions, c), rotate(k, positions, c)
        k, v = (part.repeat_interleave(c.heads // c.kv_heads, dim=1) for part in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(c.head_dim)
        shares = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return by_expert(self, "o_proj", torch.einsum("hts,shd->thd", shares, v).reshape(tokens, -1), gen)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(c.width, c.inner), linear(c.width, c.inner), linear(c.inner, c.width)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = Attention(c)
        for end in ("", "_moe_gen"):
            self.add_module(f"mlp{end}", Mlp(c))
            self.add_module(f"input_layernorm{end}", Norm(c.width, c.rms_eps))
            self.add_module(f"post_attention_layernorm{end}", Norm(c.width, c.rms_eps))

    def forward(self, x, gen, positions, mask):
        x = x + self.self_attn(by_expert(self, "input_layernorm", x, gen), gen, positions, mask)
        return x + by_expert(self, "mlp", by_expert(self, "post_attention_layernorm", x, gen), gen)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.width)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm, self.norm_moe_gen = Norm(c.width, c.rms_eps), Norm(c.width, c.rms_eps)

    def forward(self, x, gen, positions, mask):
        for layer in self.layers:
            x = layer(x, gen, positions, mask)
        return by_expert(self, "norm", x, gen)


class LanguageModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model, self.lm_head = Decoder(c), linear(c.width, c.vocab)


class TimeEmbedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: float):
        angles = t * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        return self.mlp(torch.cat([angles.cos(), angles.sin()]))


class Table(nn.Module):
    def __init__(self, rows: int, width: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(rows, width))


class TorchBagel(nn.Module):
    """Logits after a text segment, and the velocity of latents that are drawn behind it."""

    def __init__(self, config):
        super().__init__()
        self.config_of_ours, width = config, config.decoder.width
        self.language_model = LanguageModel(config.decoder)
        self.vae2llm, self.llm2vae = nn.Linear(config.token_dim, width), nn.Linear(width, config.token_dim)
        self.time_embedder, self.latent_pos_embed = TimeEmbedder(width), Table(config.latent_side**2, width)

    def forward(self, ids, latents, t: float, grid: tuple[int, int]):
        """ids [T], latents [N, C] -> logits [T, V], velocity [N, C]."""
        config, decoder = self.config_of_ours, self.language_model.model
        ends = decoder.embed_tokens(torch.tensor([config.tokens.image_start, config.tokens.image_end]))
        places = torch.tensor([row * config.latent_side + column for row in range(grid[0]) for column in range(grid[1])])
        drawn = self.vae2llm(latents) + self.time_embedder(t) + self.latent_pos_embed.pos_embed[places]
        x = torch.cat([decoder.embed_tokens(ids), ends[:1], drawn, ends[1:]])
        words, tokens = len(ids), len(x)
        gen = torch.zeros(tokens, dtype=torch.bool)
        gen[words + 1 : -1] = True
        positions = torch.cat([torch.arange(words), torch.full((tokens - words,), words)])
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        mask[words:] = True  # the block of latents sees all; text sees what came before it
        hidden = decoder(x, gen, positions, mask)
        return self.language_model.lm_head(hidden[:words]), self.llm2vae(hidden[words + 1 : -1])


def by_expert(owner: nn.Module, name: str, x, gen):
    """Latent tokens through the module's _moe_gen copy, all others through the plain one."""
    plain, drawing = getattr(owner, name)(x), getattr(owner, f"{name}_moe_gen")(x)
    return torch.where(gen.reshape(-1, *[1] * (x.dim() - 1)), drawing, plain)


def rotate(x, positions, c):
    angle = positions[:, None] * c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
