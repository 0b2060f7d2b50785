"""Blocks: what they compute, and a loop that can be compiled and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax.blocks import FixedHiddenMLP, count_halvings, halve_until_small


def test_the_constant_weight_is_no_parameter_and_lies_in_0_to_1():
    init = jax.jit(FixedHiddenMLP().init)
    variables = init(jax.random.key(0), jnp.ones((2, 20)))
    assert list(variables["params"]) == ["linear"]
    constant = np.asarray(variables["constants"]["rand_weight"])
    assert constant.shape == (20, 20)
    assert 0 <= constant.min() < constant.max() < 1
    # The mean of 400 from U(0, 1) has deviation 1 / sqrt(12 * 400).
    assert abs(constant.mean() - 0.5) <= 5 / np.sqrt(12 * 400)


@jax.jit
def halve(y):
    return halve_until_small(y), count_halvings(y)


@pytest.mark.parametrize("exponent", [-30, -1, 0, 1, 4, 40, 127])
def test_y_is_halved_exactly_and_just_often_enough(exponent):
    direction = np.random.default_rng(0).uniform(-1, 1, (2, 20)).astype(np.float32)
    y = np.ldexp(direction, exponent)
    halved, n = map(np.asarray, halve(y))
    np.testing.assert_array_equal(halved, np.ldexp(y, -n))
    total = np.abs(halved.astype(np.float64)).sum()
    assert total <= 1
    assert n == 0 or 2 * total > 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_largest_numbers_come_down_though_their_sum_is_infinite(dtype, x64):
    limits = jnp.finfo(dtype)
    y = jnp.full((2, 20), limits.max, dtype)
    assert jnp.isinf(jnp.abs(y).sum())
    halved, n = halve(y)
    assert n == limits.maxexp + 6  # 32 of 2**maxexp are too many, 64 are not
    below_1 = float(limits.max) / 2.0 ** (limits.maxexp - 1) / 2  # not 2.0**maxexp
    np.testing.assert_array_equal(halved.astype(float), jnp.full((2, 20), below_1 / 64))


def test_a_sum_of_exactly_1_is_not_halved_and_the_next_number_is():
    assert count_halvings(jnp.ones(1)) == 0
    assert count_halvings(jnp.nextafter(jnp.ones(1), 2 * jnp.ones(1))) == 1
    assert count_halvings(jnp.full(4, -0.25)) == 0


def test_under_vmap_each_example_has_its_own_number_of_halvings():
    y = jnp.array([[0.5], [2.0], [100.0], [jnp.nan], [jnp.inf]])
    np.testing.assert_array_equal(jax.vmap(count_halvings)(y), [0, 1, 7, 0, 129])
