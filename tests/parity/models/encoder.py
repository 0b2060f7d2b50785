"""A transformer encoder block with dropout; what is used last is registered first."""

import numpy as np
from flax import linen
from torch import nn


class EncoderBlock(nn.Module):
    def __init__(self, width=12, heads=3, hidden=20, dropout=0.1):
        super().__init__()
        self.norm2 = nn.LayerNorm(width)
        self.linear2 = nn.Linear(hidden, width)
        self.linear1 = nn.Linear(width, hidden)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x):
        attended, _ = self.self_attn(x, x, x, need_weights=False)
        x = self.norm1(x + self.dropout1(attended))
        hidden = self.dropout(nn.functional.gelu(self.linear1(x)))
        return self.norm2(x + self.dropout2(self.linear2(hidden)))


class FlaxEncoderBlock(linen.Module):
    @linen.compact
    def __call__(self, x, *, train=False):
        def dropout(x):
            return linen.Dropout(0.1, deterministic=not train)(x)

        attended = linen.MultiHeadDotProductAttention(3, name="attention")(x)
        x = linen.LayerNorm(epsilon=1e-5, name="norm1")(x + dropout(attended))
        hidden = linen.gelu(linen.Dense(20)(x), approximate=False)
        hidden = linen.Dense(12)(dropout(hidden))
        return linen.LayerNorm(epsilon=1e-5, name="norm2")(x + dropout(hidden))


torch_module, flax_module = EncoderBlock, FlaxEncoderBlock
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.normal(size=(4, 6, 12)),), rng.normal(size=(4, 6, 12))
