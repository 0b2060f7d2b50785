"""Every Flax module of the package against its PyTorch twin, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from parity import twins
from support import relative_difference
from test_modules import EXAMPLES, apply, inputs, variables

from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, NestMLP
from ch4jax.dropout import DropoutMLP
from ch4jax.layers import CenteredLayer, MyLinear
from ch4jax.parameters import Block, RGNet, SharedMLP


def sequential_twin(drawn):
    params = drawn["params"]
    return twins.MySequential(
        twins.MLP({"params": params["layers_0"]}),
        twins.NestMLP({"params": params["layers_1"]}),
    )


TWINS = {
    MLP: twins.MLP,
    MySequential: sequential_twin,
    FixedHiddenMLP: twins.FixedHiddenMLP,
    NestMLP: twins.NestMLP,
    DropoutMLP: twins.perceptron,
    CenteredLayer: twins.CenteredLayer,
    MyLinear: twins.MyLinear,
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
    ours = flatten_dict(by_variables.get("params", {}), sep="/")

    twin = TWINS[module](drawn)
    x = twins.tensor(x).requires_grad_()
    twin_y = twin(x)
    twin_y.backward(torch.tensor(weights))
    theirs = twins.gradients(twin)

    assert relative_difference(y, twin_y.detach()) <= 1e-12
    assert relative_difference(by_x, x.grad) <= 1e-12
    assert set(ours) == set(theirs)
    for path, gradient in theirs.items():
        assert relative_difference(ours[path], gradient) <= 1e-12, path
