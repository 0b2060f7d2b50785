"""A language model whose input and output embeddings are one (Press & Wolf, 2017)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn

VOCABULARY, WIDTH = 14, 8


class TiedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.decoder = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        x = self.encoder(tokens).cumsum(1)
        return self.decoder(self.norm(x + self.hidden(x).tanh()))


class FlaxTiedModel(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens).cumsum(1)
        return self.embed.attend(self.norm(x + jnp.tanh(self.hidden(x))))


torch_module, flax_module = TiedModel, FlaxTiedModel
tokens = np.random.default_rng(0).integers(0, VOCABULARY, (4, 7))
INPUTS, LABELS = (tokens[:, :-1],), tokens[:, 1:]
