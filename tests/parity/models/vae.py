"""A variational autoencoder (Kingma & Welling, 2014), with the noise handed over."""

import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(20, 12)
        self.fc21 = nn.Linear(12, 3)
        self.fc22 = nn.Linear(12, 3)
        self.fc3 = nn.Linear(3, 12)
        self.fc4 = nn.Linear(12, 20)

    def forward(self, x, noise):
        hidden = torch.relu(self.fc1(x))
        mean, log_variance = self.fc21(hidden), self.fc22(hidden)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return self.fc4(torch.relu(self.fc3(z))), mean, log_variance


class FlaxVAE(linen.Module):
    @linen.compact
    def __call__(self, x, noise):
        hidden = linen.relu(linen.Dense(12, name="encoder")(x))
        mean = linen.Dense(3, name="mean")(hidden)
        log_variance = linen.Dense(3, name="log_variance")(hidden)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        hidden = linen.relu(linen.Dense(12)(z))
        return linen.Dense(20)(hidden), mean, log_variance


OPTIONS = {"names": {"fc21": "mean", "fc22": "log_variance"}}
torch_module, flax_module = VAE, FlaxVAE
rng = np.random.default_rng(0)
x = rng.uniform(size=(5, 20))
INPUTS, LABELS = (x, rng.normal(size=(5, 3))), x


def torch_loss(outputs, labels):
    logits, mean, log_variance = outputs
    fit = nn.functional.binary_cross_entropy_with_logits(
        logits, labels, reduction="sum"
    )
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return (fit + kl) / len(labels)


def flax_loss(outputs, labels):
    logits, mean, log_variance = outputs
    fit = optax.sigmoid_binary_cross_entropy(logits, labels).sum()
    kl = -0.5 * jnp.sum(1 + log_variance - jnp.square(mean) - jnp.exp(log_variance))
    return (fit + kl) / len(labels)


LOSSES = flax_loss, torch_loss
