"""Custom layers against PyTorch: as the book writes them, and as they can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen as nn
from parity.carry import carry
from support import relative_difference

from ch4jax.interop import from_torch
from ch4jax.layers import CenteredLayer, MyLinear
from experiments.pytorch import twins


class BooksLinear(twins.MyLinear):
    """The layer with the book's `.data`."""

    def forward(self, x):
        return torch.relu(torch.matmul(x, self.weight.data) + self.bias.data)


def test_the_books_layer_has_our_value_and_passes_its_parameters_no_gradient(x64):
    x = np.random.default_rng(0).normal(size=(2, 5))
    drawn = MyLinear(5, 3).init(jax.random.key(0), jnp.asarray(x))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), drawn)
    y = MyLinear(5, 3).apply(variables, jnp.asarray(x))
    books, twin = (carry(variables, c(5, 3)) for c in (BooksLinear, twins.MyLinear))
    x = torch.tensor(x)
    assert relative_difference(y, books(x)) <= 1e-12
    assert not books(x).requires_grad
    assert twin(x).requires_grad


def test_a_network_of_both_layers_trains_as_in_pytorch(x64):
    """50 steps of SGD with momentum: the largest difference of a parameter."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(32, 64)), rng.uniform(size=(32, 1))
    network = nn.Sequential((MyLinear(64, 8), CenteredLayer(), MyLinear(8, 1)))
    drawn = jax.jit(network.init)(jax.random.key(0), jnp.asarray(x))
    start = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), drawn)
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def step(carry, _):
        variables, state = carry

        def loss(v):
            return ((network.apply(v, jnp.asarray(x)) - target) ** 2).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return (optax.apply_updates(variables, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=50)[0])
    ours, _ = run((start, optimizer.init(start)))

    layers = twins.MyLinear(64, 8), twins.CenteredLayer(), twins.MyLinear(8, 1)
    twin = carry(start, twins.MySequential(*layers))
    sgd = torch.optim.SGD(twin.parameters(), lr=1e-3, momentum=0.9)
    x, target = torch.tensor(x), torch.tensor(target)
    for _ in range(50):
        sgd.zero_grad()
        torch.nn.functional.mse_loss(twin(x), target).backward()
        sgd.step()

    theirs = from_torch(twin.state_dict(), start)["params"]
    for layer, arrays in ours["params"].items():
        for name, array in arrays.items():
            assert relative_difference(array, theirs[layer][name]) <= 1e-12
            assert (array != start["params"][layer][name]).any()
