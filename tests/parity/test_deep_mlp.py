"""The deep perceptron against PyTorch: same parameters, same batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from support import relative_difference

from ch4jax import deep_mlp
from ch4jax.deep_mlp import Architecture
from ch4jax.initialization import xavier_uniform

# At 0.05, on some data, layer norm amplifies rounding to 5e-10 in a hundred steps.
LEARNING_RATE = 0.01

CASES = {
    "relu": (Architecture(jax.nn.relu), torch.relu),
    "tanh": (Architecture(jnp.tanh), torch.tanh),
    "residual": (Architecture(jax.nn.relu, residual=True), torch.relu),
    "layer norm": (Architecture(jax.nn.sigmoid, layer_norm=True), torch.sigmoid),
}


def torch_logits(params, x, architecture, activation):
    """Apply the network as a PyTorch user writes it, layer after layer."""
    first, hidden, output = params
    layers = [first, *((k, b) for k, b in zip(*hidden, strict=True))]
    h = x
    for i, (kernel, bias) in enumerate(layers):
        a = activation(torch.nn.functional.linear(h, kernel.T, bias))
        if architecture.layer_norm:
            a = torch.nn.functional.layer_norm(a, a.shape[1:])
        h = h + a if architecture.residual and i > 0 else a
    return torch.nn.functional.linear(h, output[0].T, output[1])


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

    theirs = jax.tree.map(
        lambda p: torch.tensor(np.asarray(p)).requires_grad_(), params
    )
    tensors = jax.tree.leaves(theirs)
    optimizer = torch.optim.SGD(tensors, lr=LEARNING_RATE)
    torch_x, torch_labels = (torch.tensor(np.asarray(a)) for a in (x, labels))

    def torch_loss():
        logits = torch_logits(theirs, torch_x, architecture, activation)
        return torch.nn.functional.cross_entropy(logits, torch_labels)

    @jax.jit
    def train(params):
        def step(_, params):
            grads = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads)

        first = jax.value_and_grad(loss)(params)
        return *first, jax.lax.fori_loop(0, 100, step, params)

    value, grads, trained = train(params)
    torch_loss().backward()
    assert relative_difference(value, torch_loss().detach()) <= 1e-12
    for ours, tensor in zip(jax.tree.leaves(grads), tensors, strict=True):
        assert relative_difference(ours, tensor.grad) <= 1e-12

    for _ in range(100):
        optimizer.zero_grad()
        torch_loss().backward()
        optimizer.step()
    for ours, tensor in zip(jax.tree.leaves(trained), tensors, strict=True):
        assert relative_difference(ours, tensor.detach()) <= 1e-12
