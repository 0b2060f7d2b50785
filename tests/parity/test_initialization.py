"""Initialisers and clipping against PyTorch's."""

import jax
import numpy as np
import optax
import pytest
import scipy.stats
import torch
from support import relative_difference

from ch4jax import initialization as init
from experiments.initialization.networks import CLIPPING

FAN_IN, FAN_OUT = 50, 4_000


def sparse_uniform(w):
    """Fill `w` as the book's `my_init` does."""
    torch.nn.init.uniform_(w, -10, 10)
    with torch.no_grad():
        w.mul_(w.abs() >= 5)


FILLS = {
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "xavier_normal": torch.nn.init.xavier_normal_,
    "he_normal": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "normal": lambda w: torch.nn.init.normal_(w, std=0.01),
    "sparse_uniform": sparse_uniform,
    "torch_kernel": lambda w: None,  # what Linear starts with
    "torch_bias": lambda w: None,
}
OURS = {"normal": init.normal(0.01), "torch_bias": init.torch_bias(FAN_IN)}


@pytest.mark.parametrize("name", FILLS)
def test_what_is_drawn_is_distributed_as_in_pytorch(name):
    torch.manual_seed(0)
    layer = torch.nn.Linear(FAN_IN, FAN_OUT)
    FILLS[name](layer.weight)
    theirs = (layer.bias if name == "torch_bias" else layer.weight.T).detach().numpy()
    ours = OURS.get(name, getattr(init, name))(jax.random.key(0), theirs.shape)
    distance, p = scipy.stats.ks_2samp(np.ravel(ours), theirs.ravel())
    assert p > 1e-4, distance


def test_clipping_is_pytorchs_but_for_a_millionth_of_the_norm(x64):
    grads = 3 * np.random.default_rng(0).normal(size=(30, 20))
    parameter = torch.zeros(grads.shape, dtype=torch.float64)
    by_norm, by_value = (
        CLIPPING[name].update(grads, optax.EmptyState())[0]
        for name in ("norm", "value")
    )
    norm = np.linalg.norm(grads)
    parameter.grad = torch.tensor(grads)
    torch.nn.utils.clip_grad_norm_(parameter, 1.0)  # divides by norm + 1e-6
    assert relative_difference(by_norm, parameter.grad * (norm + 1e-6) / norm) <= 1e-12
    parameter.grad = torch.tensor(grads)
    torch.nn.utils.clip_grad_value_(parameter, 0.01)
    np.testing.assert_array_equal(by_value, parameter.grad)
