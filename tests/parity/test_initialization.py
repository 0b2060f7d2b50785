"""Initialisers and clipping against PyTorch's."""

import jax
import numpy as np
import optax
import pytest
import scipy.stats
import torch
from support import relative_difference

from ch4jax import initialization as init

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


def gradients():
    keys = jax.random.split(jax.random.key(0))
    return [jax.random.normal(key, (30, 20)) * 3 for key in keys]


def torch_gradients(grads):
    parameters = [torch.zeros(grad.shape, dtype=torch.float64) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = torch.tensor(np.asarray(grad))
    return parameters


def test_clipping_by_norm_is_pytorchs_but_for_its_millionth(x64):
    grads = gradients()
    norm = float(optax.tree.norm(grads))
    ours, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    parameters = torch_gradients(grads)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for mine, parameter in zip(ours, parameters, strict=True):
        # PyTorch divides by norm + 1e-6.
        theirs = parameter.grad * (norm + 1e-6) / norm
        assert relative_difference(mine, theirs) <= 1e-12


def test_clipping_by_value_is_pytorchs(x64):
    grads = gradients()
    ours, _ = optax.clip(0.5).update(grads, optax.EmptyState())
    parameters = torch_gradients(grads)
    torch.nn.utils.clip_grad_value_(parameters, 0.5)
    for mine, parameter in zip(ours, parameters, strict=True):
        np.testing.assert_array_equal(mine, parameter.grad)
