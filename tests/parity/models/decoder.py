"""A small decoder with rotary embeddings (Su et al., 2021) and RMSNorm.

The layers are registered in the order in which a gradient reaches them.
"""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

VOCABULARY, WIDTH, HEADS, HIDDEN, DEPTH = 11, 12, 2, 16, 2


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x):
    """Rotate (batch, length, heads, size), whose halves hold the pairs."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 10000 ** (
        -torch.arange(half, dtype=x.dtype) / half
    )
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.ffn_norm = RMSNorm(WIDTH)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.attn_norm = RMSNorm(WIDTH)

    def forward(self, x):
        h, shape = self.attn_norm(x), (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k = rotate(self.q_proj(h).view(shape)), rotate(self.k_proj(h).view(shape))
        q, k, v = (t.transpose(1, 2) for t in (q, k, self.v_proj(h).view(shape)))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(out.transpose(1, 2).reshape(x.shape))
        h = self.ffn_norm(x)
        gate = nn.functional.silu(self.gate_proj(h))
        return x + self.down_proj(gate * self.up_proj(h))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.norm = RMSNorm(WIDTH)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(DEPTH))
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def flax_rotate(x):
    half = x.shape[-1] // 2
    angle = jnp.outer(
        jnp.arange(x.shape[1], dtype=x.dtype),
        10000 ** (-jnp.arange(half, dtype=x.dtype) / half),
    )
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class FlaxLayer(nnx.Module):
    def __init__(self, rngs):
        def linear(inputs, outputs):
            return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)

        self.attn_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.q_proj, self.k_proj = linear(WIDTH, WIDTH), linear(WIDTH, WIDTH)
        self.v_proj, self.o_proj = linear(WIDTH, WIDTH), linear(WIDTH, WIDTH)
        self.ffn_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.gate_proj, self.up_proj = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN)
        self.down_proj = linear(HIDDEN, WIDTH)

    def __call__(self, x):
        h, shape = self.attn_norm(x), (*x.shape[:2], HEADS, WIDTH // HEADS)
        q = flax_rotate(self.q_proj(h).reshape(shape))
        k = flax_rotate(self.k_proj(h).reshape(shape))
        v = self.v_proj(h).reshape(shape)
        # By hand: dot_product_attention of jax.nn and NNX computes in float32.
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) / (WIDTH // HEADS) ** 0.5
        seen = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))
        weights = nnx.softmax(jnp.where(seen, scores, -jnp.inf))
        out = jnp.einsum("bhij,bjhd->bihd", weights, v)
        x = x + self.o_proj(out.reshape(x.shape))
        h = self.ffn_norm(x)
        return x + self.down_proj(nnx.silu(self.gate_proj(h)) * self.up_proj(h))


class FlaxDecoder(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.layers = nnx.List([FlaxLayer(rngs) for _ in range(DEPTH)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


# An embedding and a head have equal shapes in PyTorch: names have to decide.
OPTIONS = {"names": {"embed_tokens": "embed", "lm_head": "head"}}
torch_module, flax_module = Decoder, FlaxDecoder
tokens = np.random.default_rng(0).integers(0, VOCABULARY, (3, 8))
INPUTS, LABELS = (tokens[:, :-1],), tokens[:, 1:]
