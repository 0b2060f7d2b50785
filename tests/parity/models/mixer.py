"""An MLP-Mixer (Tolstikhin et al., 2021) of patches of 4 x 4."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn

PATCHES, WIDTH, TOKENS_HIDDEN, CHANNELS_HIDDEN, DEPTH, CLASSES = 9, 6, 10, 14, 2, 5


class Mlp(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class MixerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.mlp_tokens = Mlp(PATCHES, TOKENS_HIDDEN)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp_channels = Mlp(WIDTH, CHANNELS_HIDDEN)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, 4)
        self.blocks = nn.Sequential(*(MixerBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class FlaxMlp(nnx.Module):
    def __init__(self, width, hidden, rngs):
        self.dense_in = nnx.Linear(width, hidden, rngs=rngs)
        self.dense_out = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return self.dense_out(nnx.gelu(self.dense_in(x), approximate=False))


class FlaxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.token_mixing = FlaxMlp(PATCHES, TOKENS_HIDDEN, rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.channel_mixing = FlaxMlp(WIDTH, CHANNELS_HIDDEN, rngs)

    def __call__(self, x):
        x = x + self.token_mixing(self.norm1(x).swapaxes(1, 2)).swapaxes(1, 2)
        return x + self.channel_mixing(self.norm2(x))


class FlaxMixer(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, WIDTH, (4, 4), (4, 4), padding=0, rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.patches(jnp.moveaxis(x, 1, -1)).reshape(x.shape[0], PATCHES, WIDTH)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


torch_module, flax_module = MlpMixer, FlaxMixer
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.normal(size=(4, 3, 12, 12)),), rng.integers(0, CLASSES, 4)
