"""The loop of FixedHiddenMLP against PyTorch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from parity.carry import carry
from support import relative_difference

from ch4jax.blocks import FixedHiddenMLP
from experiments.pytorch import twins


def float64_variables(network):
    """Return variables whose biases, too, are drawn."""
    drawn = jax.jit(network.init)(jax.random.key(0), jnp.ones((2, 20), jnp.float32))
    rng = np.random.default_rng(2)

    def draw(path, a):
        return rng.normal(size=a.shape) if path[-1].key == "bias" else a

    drawn = jax.tree_util.tree_map_with_path(draw, drawn)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), drawn)


def ours(network, variables, x):
    """Return value, gradients by path, and gradient by the input."""

    def f(params, x):
        return network.apply({**variables, "params": params}, x)

    value_and_gradients = jax.jit(jax.value_and_grad(f, (0, 1)))
    y, (by_params, by_x) = value_and_gradients(variables["params"], x)
    return y, flatten_dict(by_params, sep="/"), by_x


def theirs(twin, x):
    """Return value, and gradient by the input; the others are left in the twin."""
    twin.zero_grad()
    x = torch.tensor(np.asarray(x), requires_grad=True)
    y = twin(x)
    y.backward()
    return y.detach().numpy(), x.grad.numpy()


def test_1000_inputs_over_eight_orders_of_magnitude(x64):
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(-4, 4, (1000, 1, 1))
    inputs = sizes * rng.normal(size=(1000, 2, 20))
    variables = float64_variables(FixedHiddenMLP())
    run = jax.jit(jax.vmap(lambda x: ours(FixedHiddenMLP(), variables, x)))
    twin = carry(variables, twins.FixedHiddenMLP())
    expected = []
    for x in inputs:
        y, by_x = theirs(twin, x)
        weight, bias = twin.linear.weight.grad, twin.linear.bias.grad
        by_params = {"linear/kernel": weight.numpy().T, "linear/bias": bias.numpy()}
        expected.append((y, by_params, by_x))
    expected = jax.tree.map(lambda *arrays: np.stack(arrays), *expected)

    def compare(a, b):
        off, size = (np.linalg.norm(c.reshape(1000, -1), axis=1) for c in (a - b, b))
        assert (off <= 1e-9 * size).all()  # where ReLU passes nothing, both are zero
        assert (size > 0).mean() > 0.9

    jax.tree.map(compare, jax.tree.map(np.asarray, run(inputs)), expected)


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_nan_as_in_pytorch(entry, x64):
    """Only ReLU differs: at a NaN its derivative is 0 in JAX, and 1 in PyTorch.

    The bias and the row itself see nothing else of the NaN.
    """
    x = np.random.default_rng(0).normal(size=(2, 20))
    x[0, 3] = entry
    variables = float64_variables(FixedHiddenMLP())
    y, by_params, by_x = ours(FixedHiddenMLP(), variables, jnp.asarray(x))
    twin = carry(variables, twins.FixedHiddenMLP())
    twin_y, twin_by_x = theirs(twin, x)
    assert np.isnan(y)
    assert np.isnan(twin_y)
    assert np.isnan(by_params["linear/kernel"]).all()
    assert twin.linear.weight.grad.isnan().all()
    assert relative_difference(by_x[1], twin_by_x[1]) <= 1e-9
    assert (by_x[0] == 0).all()
    assert (twin_by_x[0] != 0).all()


def test_an_infinite_sum_ends_here_and_never_in_pytorch(x64):
    """With positive weights, +inf reaches the loop, and half of it is as large."""
    variables = jax.tree.map(jnp.abs, float64_variables(FixedHiddenMLP()))
    x = jnp.ones((2, 20)).at[0, 3].set(jnp.inf)
    assert FixedHiddenMLP().apply(variables, x) == jnp.inf
