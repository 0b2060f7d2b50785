"""An LSTM classifier of token sequences.

Flax's own cells have one bias where PyTorch's have two, which learn twice as fast
together; a port that is trained keeps both.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn

VOCABULARY, WIDTH, HIDDEN, CLASSES = 13, 6, 7, 3


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.fc = nn.Linear(HIDDEN, CLASSES)

    def forward(self, tokens):
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.fc(hidden[-1])


class LSTM(nnx.Module):
    def __init__(self, rngs):
        self.ih = nnx.Linear(WIDTH, 4 * HIDDEN, rngs=rngs)
        self.hh = nnx.Linear(HIDDEN, 4 * HIDDEN, rngs=rngs)

    def __call__(self, x):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(self.ih(x) + self.hh(h), 4, -1)
            c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
            return (nnx.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], HIDDEN), x.dtype)
        return jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[0][0]


class FlaxClassifier(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.lstm = LSTM(rngs)
        self.fc = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, tokens):
        return self.fc(self.lstm(self.embedding(tokens)))


OPTIONS = {
    "names": {
        "lstm.weight_ih_l0": "lstm/ih/kernel",
        "lstm.bias_ih_l0": "lstm/ih/bias",
        "lstm.weight_hh_l0": "lstm/hh/kernel",
        "lstm.bias_hh_l0": "lstm/hh/bias",
    }
}
torch_module, flax_module = Classifier, FlaxClassifier
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.integers(0, VOCABULARY, (5, 9)),), rng.integers(0, CLASSES, 5)
