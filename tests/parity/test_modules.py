"""Every Flax module of the package against its PyTorch twin, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support import relative_difference
from test_modules import EXAMPLES, apply, inputs, variables

from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, NestMLP
from ch4jax.dropout import DropoutMLP
from ch4jax.layers import CenteredLayer, MyLinear
from ch4jax.parameters import Block, RGNet, SharedMLP
from experiments.pytorch import twins
from experiments.pytorch.systems import as_tree, carried

TWINS = {
    MLP: twins.MLP,
    MySequential: lambda: torch.nn.Sequential(twins.MLP(20, 32, 12), twins.NestMLP(12)),
    FixedHiddenMLP: twins.FixedHiddenMLP,
    NestMLP: twins.NestMLP,
    DropoutMLP: lambda: twins.perceptron((16, 8), num_inputs=16).eval(),
    CenteredLayer: twins.CenteredLayer,
    MyLinear: lambda: twins.MyLinear(5, 3),
    Block: twins.Block,
    RGNet: twins.RGNet,
    SharedMLP: twins.SharedMLP,
}


def test_every_example_has_a_twin():
    assert set(TWINS) == set(EXAMPLES)


@functools.partial(jax.jit, static_argnums=0)
def ours(module, variables, x, weights):
    """Return the value, and its gradients by the parameters and by the input."""

    def f(params, x):
        return apply(module, variables | params, x)

    params = {"params": variables["params"]} if "params" in variables else {}
    y, pullback = jax.vjp(f, params, x)
    return y, pullback(weights)


def theirs(twin, like, x, weights):
    """Return what `ours` does."""
    twin.zero_grad()
    x = torch.tensor(np.asarray(x), requires_grad=True)
    y = twin(x)
    y.backward(torch.tensor(weights))
    return y.detach().numpy(), (as_tree(twin, like, gradients=True), x.grad.numpy())


@pytest.mark.parametrize("module", TWINS, ids=lambda module: module.__name__)
def test_values_and_gradients_are_those_of_pytorch(module, x64):
    example = EXAMPLES[module]
    drawn = variables(example, jnp.float64)
    x = inputs(example, dtype=jnp.float64)
    shape = jax.eval_shape(functools.partial(apply, example.module), drawn, x).shape
    weights = np.random.default_rng(1).normal(size=shape)
    found = ours(example.module, drawn, x, weights)
    twin = carried(drawn, TWINS[module]())
    expected = theirs(twin, found[1][0], x, weights)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert relative_difference(a, b) <= 1e-12


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_nan_as_in_pytorch(entry, x64):
    """Only ReLU differs: at a NaN its derivative is 0 in JAX, and 1 in PyTorch.

    The bias and the row itself see nothing else of the NaN.
    """
    drawn = variables(EXAMPLES[FixedHiddenMLP], jnp.float64)
    twin, like = carried(drawn, twins.FixedHiddenMLP()), {"params": drawn["params"]}
    x = np.random.default_rng(0).normal(size=(2, 20))
    x[0, 3] = entry
    found = ours(FixedHiddenMLP(), drawn, x, 1.0)
    expected = theirs(twin, like, x, 1.0)
    for y, (by_params, _) in (found, expected):
        assert np.isnan(y)
        assert np.isnan(by_params["params"]["linear"]["kernel"]).all()
    by_x, twin_by_x = found[1][1], expected[1][1]
    assert relative_difference(by_x[1], twin_by_x[1]) <= 1e-9
    assert (by_x[0] == 0).all()
    assert (twin_by_x[0] != 0).all()
