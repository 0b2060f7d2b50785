"""The deep perceptron against PyTorch: same parameters, same batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from parity.carry import carry, difference, gradients

from ch4jax import deep_mlp
from ch4jax.deep_mlp import Architecture
from ch4jax.initialization import xavier_uniform
from experiments.pytorch import twins

CASES = {
    "relu": (Architecture(jax.nn.relu), torch.relu),
    "tanh": (Architecture(jnp.tanh), torch.tanh),
    "residual": (Architecture(jax.nn.relu, residual=True), torch.relu),
    "layer norm": (Architecture(jax.nn.sigmoid, layer_norm=True), torch.sigmoid),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_of_twelve_layers_are_those_of_pytorch(name, x64):
    architecture, activation = CASES[name]
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

    options = {"residual": architecture.residual, "layer_norm": architecture.layer_norm}
    twin = carry(params, twins.DeepMLP(*sizes, activation, **options))
    logits = twin(torch.tensor(x))
    torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    torch_loss.backward()

    loss, grads = loss_and_grads(params)
    assert difference(loss, torch_loss.detach()) <= 1e-12
    assert difference(grads, gradients(twin, params)) <= 1e-12
