"""Every Flax module of the package against its PyTorch twin, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
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


@pytest.mark.parametrize("module", TWINS, ids=lambda module: module.__name__)
def test_values_and_gradients_are_those_of_pytorch(module, x64):
    example = EXAMPLES[module]
    drawn = variables(example, jnp.float64)
    x = inputs(example, dtype=jnp.float64)
    shape = jax.eval_shape(functools.partial(apply, example.module), drawn, x).shape
    weights = np.random.default_rng(1).normal(size=shape)

    @jax.jit
    def value_and_gradients(drawn, x):
        y, pullback = jax.vjp(functools.partial(apply, example.module), drawn, x)
        return y, pullback(jnp.asarray(weights))

    y, (by_variables, by_x) = value_and_gradients(drawn, x)
    ours = by_variables.get("params", {})

    twin = carried(drawn, TWINS[module]())
    x = torch.tensor(np.asarray(x), requires_grad=True)
    twin_y = twin(x)
    twin_y.backward(torch.tensor(weights))
    theirs = flatten_dict(as_tree(twin, ours, gradients=True))

    assert relative_difference(y, twin_y.detach()) <= 1e-12
    assert relative_difference(by_x, x.grad) <= 1e-12
    for path, gradient in flatten_dict(ours).items():
        assert relative_difference(gradient, theirs[path]) <= 1e-12, path
