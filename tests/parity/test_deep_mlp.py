"""The deep perceptron against PyTorch: same parameters, same batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from parity.carry import carry, difference, gradients

from ch4jax import deep_mlp
from ch4jax.initialization import xavier_uniform
from experiments.pytorch import twins
from experiments.pytorch.deep_mlp import DESIGNS


@pytest.mark.parametrize("name", DESIGNS)
def test_loss_and_gradients_of_twelve_layers_are_those_of_pytorch(name, x64):
    architecture, activation, *_ = DESIGNS[name]
    sizes = (20, 16, 12, 5)
    params = deep_mlp.init_params(*sizes, xavier_uniform, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(32, 20)), rng.integers(0, 5, 32)

    @jax.jit
    @jax.value_and_grad
    def loss_and_grads(params):
        logits, _ = deep_mlp.apply(params, jnp.asarray(x), architecture)
        rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return rows.mean()

    _, residual, layer_norm = architecture
    twin = twins.DeepMLP(*sizes, activation, residual=residual, layer_norm=layer_norm)
    carry(params, twin)
    logits = twin(torch.tensor(x))
    torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    torch_loss.backward()

    loss, grads = loss_and_grads(params)
    assert difference(loss, torch_loss.detach()) <= 1e-12
    assert difference(grads, gradients(twin, params)) <= 1e-12
