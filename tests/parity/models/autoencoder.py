"""A convolutional autoencoder; PyTorch's transposed convolutions have `padding`."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.PReLU(),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


class FlaxAutoencoder(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)

        def down(inputs, outputs):
            return nnx.Conv(inputs, outputs, (3, 3), (2, 2), padding=1, rngs=rngs)

        def up(inputs, outputs):  # kernel - 1 - PyTorch's padding, at each end
            return nnx.ConvTranspose(
                inputs, outputs, (4, 4), (2, 2), padding=2, rngs=rngs
            )

        self.encoder = nnx.Sequential(down(1, 4), nnx.relu, down(4, 6), nnx.PReLU())
        self.decoder = nnx.Sequential(up(6, 4), nnx.relu, up(4, 1), nnx.sigmoid)

    def __call__(self, x):
        x = jnp.moveaxis(x, 1, -1)
        return jnp.moveaxis(self.decoder(self.encoder(x)), -1, 1)


torch_module, flax_module = Autoencoder, FlaxAutoencoder
x = np.random.default_rng(0).uniform(size=(4, 1, 12, 12))
INPUTS, LABELS = (x,), x
