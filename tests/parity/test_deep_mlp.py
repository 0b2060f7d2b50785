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
from ch4jax.interop import from_torch
from experiments.pytorch import twins

# At 0.05, on some data, layer norm amplifies rounding to 5e-10 in a hundred steps.
LEARNING_RATE = 0.01

CASES = {
    "relu": (Architecture(jax.nn.relu), torch.relu),
    "tanh": (Architecture(jnp.tanh), torch.tanh),
    "residual": (Architecture(jax.nn.relu, residual=True), torch.relu),
    "layer norm": (Architecture(jax.nn.sigmoid, layer_norm=True), torch.sigmoid),
}


@pytest.mark.parametrize("name", CASES)
def test_twelve_layers_train_as_in_pytorch(name, x64):
    architecture, activation = CASES[name]
    key = jax.random.key(0)
    params = deep_mlp.init_params(20, 16, 12, 5, xavier_uniform, key=key)
    rng = np.random.default_rng(0)
    x, labels = (
        jnp.asarray(rng.normal(size=(32, 20))),
        jnp.asarray(rng.integers(0, 5, 32)),
    )

    def loss(params):
        logits, _ = deep_mlp.apply(params, x, architecture)
        rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return rows.mean()

    twin = carry(
        params,
        twins.DeepMLP(
            *(20, 16, 12, 5),
            activation,
            residual=architecture.residual,
            layer_norm=architecture.layer_norm,
        ),
    )
    optimizer = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)
    torch_x, torch_labels = (torch.tensor(np.asarray(a)) for a in (x, labels))

    def torch_loss():
        return torch.nn.functional.cross_entropy(twin(torch_x), torch_labels)

    @jax.jit
    def train(params):
        def step(_, params):
            grads = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads)

        first = jax.value_and_grad(loss)(params)
        return *first, jax.lax.fori_loop(0, 100, step, params)

    value, grads, trained = train(params)
    torch_loss().backward()
    assert difference(value, torch_loss().detach().numpy()) <= 1e-12
    assert difference(grads, gradients(twin, params)) <= 1e-12

    for _ in range(100):
        optimizer.zero_grad()
        torch_loss().backward()
        optimizer.step()
    assert difference(trained, from_torch(twin.state_dict(), params)) <= 1e-12
