"""LeNet-5 (LeCun et al., 1998): the classifier is registered before the features."""

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc3 = nn.Linear(16, 10)
        self.fc2 = nn.Linear(24, 16)
        self.fc1 = nn.Linear(8 * 4 * 4, 24)
        self.conv2 = nn.Conv2d(4, 8, 5)
        self.conv1 = nn.Conv2d(1, 4, 5, padding=2)

    def forward(self, x):
        x = nn.functional.avg_pool2d(torch.sigmoid(self.conv1(x)), 2)
        x = nn.functional.avg_pool2d(torch.sigmoid(self.conv2(x)), 2)
        x = torch.sigmoid(self.fc1(x.flatten(1)))
        return self.fc3(torch.sigmoid(self.fc2(x)))


class FlaxLeNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.moveaxis(x, 1, -1)
        x = linen.sigmoid(linen.Conv(4, (5, 5))(x))
        x = linen.avg_pool(x, (2, 2), (2, 2))
        x = linen.sigmoid(linen.Conv(8, (5, 5), padding="VALID")(x))
        x = linen.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        for width in (24, 16):
            x = linen.sigmoid(linen.Dense(width)(x))
        return linen.Dense(10)(x)


OPTIONS = {"flattened": {"fc1": (8, 4, 4)}}  # Flax's channels are last
torch_module, flax_module = LeNet, FlaxLeNet
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.normal(size=(6, 1, 24, 24)),), rng.integers(0, 10, 6)
