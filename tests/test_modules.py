"""One set of checks over every Flax module of the package.

A new module needs one entry in EXAMPLES, and one in TWINS of parity/test_modules.py.
"""

import functools
import importlib
import inspect
import pickle
import pkgutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

import ch4jax
from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, NestMLP
from ch4jax.dropout import DropoutMLP
from ch4jax.layers import CenteredLayer, MyLinear
from ch4jax.parameters import Block, RGNet, SharedMLP


class Example(NamedTuple):
    """A module, and the shape of one row of what it takes."""

    module: nn.Module
    row: tuple[int, ...]


EXAMPLES = {
    MLP: Example(MLP(), (20,)),
    # Flax's Dense holds a closure, which pickle refuses, so these layers are ours.
    MySequential: Example(MySequential((MLP(32, 12), NestMLP())), (20,)),
    FixedHiddenMLP: Example(FixedHiddenMLP(), (20,)),
    NestMLP: Example(NestMLP(), (20,)),
    DropoutMLP: Example(DropoutMLP((16, 8), std=0.1), (4, 4)),
    CenteredLayer: Example(CenteredLayer(), (5,)),
    MyLinear: Example(MyLinear(5, 3), (5,)),
    Block: Example(Block(), (4,)),
    RGNet: Example(RGNet(), (4,)),
    SharedMLP: Example(SharedMLP(), (4,)),
}

every_module = pytest.mark.parametrize(
    "example", EXAMPLES.values(), ids=[module.__name__ for module in EXAMPLES]
)


def has_dropout(module):
    return "train" in inspect.signature(type(module).__call__).parameters


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, x):
    """Apply the module; nothing is dropped."""
    mode = {"train": False} if has_dropout(module) else {}
    return module.apply(variables, x, **mode)


def inputs(example, rows=3, dtype=jnp.float32):
    x = np.random.default_rng(0).normal(size=(rows, *example.row))
    return jnp.asarray(x, dtype)


def variables(example, dtype=jnp.float32, seed=0):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), draw(example, seed))


@functools.cache
def draw(example, seed):
    """Return NumPy arrays: those of JAX would keep the first test's precision."""
    x = np.ones((1, *example.row), np.float32)
    drawn = init(example.module, jax.random.key(seed), x)
    return jax.tree.map(np.asarray, drawn)


@functools.partial(jax.jit, static_argnums=0)
def init(module, key, x):
    """Initialise in training mode, so that every key there is gets used."""
    if not has_dropout(module):
        return module.init(key, x)
    params_key, dropout_key = jax.random.split(key)
    rngs = {"params": params_key, "dropout": dropout_key}
    return module.init_with_output(rngs, x, train=True)[1]


def test_every_module_that_the_package_defines_has_an_example():
    found = set()
    for info in pkgutil.walk_packages(ch4jax.__path__, "ch4jax."):
        module = importlib.import_module(info.name)
        for _, defined in inspect.getmembers(module, inspect.isclass):
            if issubclass(defined, nn.Module) and defined.__module__ == module.__name__:
                found.add(defined)
    assert found == set(EXAMPLES)


# `draw` fails if a module uses a key twice: see the test of `Careless` below.
@every_module
def test_one_key_makes_one_set_of_parameters_and_another_key_another(example):
    first, again, other = (
        flatten_dict(f(example, seed))
        for f, seed in ((draw, 0), (draw.__wrapped__, 0), (draw, 1))
    )
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, again[path])
        if path[-1] != "bias":
            assert (leaf != other[path]).all()


def test_a_module_that_uses_a_key_twice_is_caught():
    class Careless(nn.Module):
        @nn.compact
        def __call__(self, x):
            key = self.make_rng("params")
            return x + jax.random.normal(key) + jax.random.normal(key)

    with pytest.raises(jax.errors.KeyReuseError):
        init(Careless(), jax.random.key(0), jnp.ones(()))


@every_module
@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_one_and_a_batch_of_none_are_batches(example, rows):
    v, x = variables(example), inputs(example, rows)
    y, pullback = jax.vjp(functools.partial(apply, example.module), v, x)
    of_three = apply(example.module, v, inputs(example))
    assert y.shape == (of_three.shape and (rows, *of_three.shape[1:]))
    slopes = pullback(jnp.ones_like(y))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, slopes)))
    if rows == 0:
        assert all((slope == 0).all() for slope in jax.tree.leaves(slopes))


@every_module
def test_bfloat16_stays_bfloat16_and_near_float32(example):
    v, x = (f(example, dtype=jnp.bfloat16) for f in (variables, inputs))
    low = apply(example.module, v, x)
    assert low.dtype == jnp.bfloat16
    y = apply(example.module, variables(example), inputs(example))
    assert np.abs(low.astype(y.dtype) - y).max() <= 0.05 * np.abs(y).max()


@every_module
def test_pickled_and_cloned_modules_are_equal_and_share_one_trace(example):
    module, v, x = example.module, variables(example), inputs(example)
    y = apply(module, v, x)
    traces = apply._cache_size()
    for copy in (pickle.loads(pickle.dumps(module)), module.clone()):
        np.testing.assert_array_equal(apply(copy, v, x), y)
    assert apply._cache_size() == traces
