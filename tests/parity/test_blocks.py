"""The loop of FixedHiddenMLP against PyTorch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support import relative_difference
from test_modules import EXAMPLES, variables

from ch4jax.blocks import FixedHiddenMLP
from experiments.pytorch import twins
from experiments.pytorch.systems import as_tree, carried


@pytest.fixture
def drawn(x64):
    """Return variables whose biases, too, are drawn."""
    rng = np.random.default_rng(2)
    whole = variables(EXAMPLES[FixedHiddenMLP], jnp.float64)
    params = jax.tree.map(lambda a: a + rng.normal(size=a.shape), whole["params"])
    return {**whole, "params": params}


@jax.jit
def ours(variables, x):
    """Return the value, and its gradients by the parameters and by the input."""

    def f(params, x):
        return FixedHiddenMLP().apply({**variables, "params": params}, x)

    return jax.value_and_grad(f, (0, 1))(variables["params"], x)


def theirs(variables, x):
    """Return what `ours` does."""
    twin = carried(variables, twins.FixedHiddenMLP())
    x = torch.tensor(x, requires_grad=True)
    y = twin(x)
    y.backward()
    grads = as_tree(twin, variables["params"], gradients=True)
    return y.detach().numpy(), (grads, x.grad)


@pytest.mark.long
def test_1000_inputs_over_eight_orders_of_magnitude(drawn):
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(-4, 4, (1000, 1, 1))
    inputs = sizes * rng.normal(size=(1000, 2, 20))
    expected = [theirs(drawn, x) for x in inputs]

    def compare(ours, *theirs):
        a, b = (np.reshape(arrays, (1000, -1)) for arrays in (ours, np.stack(theirs)))
        off, size = np.linalg.norm(a - b, axis=1), np.linalg.norm(b, axis=1)
        assert (off <= 1e-9 * size).all()  # where ReLU passes nothing, both are zero
        assert (size > 0).mean() > 0.9

    jax.tree.map(compare, jax.vmap(ours, (None, 0))(drawn, inputs), *expected)


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_nan_as_in_pytorch(entry, drawn):
    """Only ReLU differs: at a NaN its derivative is 0 in JAX, and 1 in PyTorch.

    The bias and the row itself see nothing else of the NaN.
    """
    x = np.random.default_rng(0).normal(size=(2, 20))
    x[0, 3] = entry
    found, expected = ours(drawn, x), theirs(drawn, x)
    for y, (by_params, _) in (found, expected):
        assert np.isnan(y)
        assert np.isnan(by_params["linear"]["kernel"]).all()
    by_x, twin_by_x = found[1][1], expected[1][1]
    assert relative_difference(by_x[1], twin_by_x[1]) <= 1e-9
    assert (by_x[0] == 0).all()
    assert (twin_by_x[0] != 0).all()
