"""Blocks: what they compute, and a loop that can be compiled and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ch4jax.blocks import (
    MLP,
    FixedHiddenMLP,
    MySequential,
    NestMLP,
    chimera,
    count_halvings,
    halve_until_small,
)


def rows(num_rows=2, width=20):
    return jax.random.uniform(jax.random.key(1), (num_rows, width))


def test_my_sequential_is_sequential_down_to_the_names_of_its_parameters():
    layers = (nn.Dense(256), nn.relu, nn.Dense(10))
    ours, theirs = MySequential(layers), nn.Sequential(layers)
    y, variables = ours.init_with_output(jax.random.key(0), rows())
    expected, expected_variables = theirs.init_with_output(jax.random.key(0), rows())
    assert y.shape == (2, 10)
    np.testing.assert_array_equal(y, expected)
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)


def test_mlp_is_two_products_with_a_relu_in_between():
    y, variables = MLP().init_with_output(jax.random.key(0), rows())
    hidden, out = (variables["params"][name] for name in ("hidden", "out"))
    assert hidden["kernel"].shape == (20, 256)
    assert out["kernel"].shape == (256, 10)
    h = np.maximum(rows() @ hidden["kernel"] + hidden["bias"][None], 0)
    np.testing.assert_allclose(
        y, h @ out["kernel"] + out["bias"][None], rtol=1e-5, atol=1e-6
    )


def test_the_inner_block_of_a_nest_has_parameters_of_its_own():
    y, variables = jax.eval_shape(NestMLP().init_with_output, jax.random.key(0), rows())
    params = variables["params"]
    assert y.shape == (2, 16)
    assert params["net"]["layers_0"]["kernel"].shape == (20, 64)
    assert params["net"]["layers_2"]["kernel"].shape == (64, 32)
    assert params["linear"]["kernel"].shape == (32, 16)


def test_the_chimera_takes_rows_of_any_width_to_a_number():
    for width in (20, 7):
        x = rows(width=width)
        y, _ = jax.eval_shape(chimera().init_with_output, jax.random.key(0), x)
        assert y.shape == ()


@pytest.fixture(scope="module")
def fixed_hidden():
    return jax.jit(FixedHiddenMLP().init)(jax.random.key(0), rows())


def test_the_constant_weight_is_no_parameter_and_lies_in_0_to_1(fixed_hidden):
    assert list(fixed_hidden["params"]) == ["linear"]
    constant = np.asarray(fixed_hidden["constants"]["rand_weight"])
    assert constant.shape == (20, 20)
    assert 0 <= constant.min() < constant.max() < 1
    # The mean of 400 from U(0, 1) has deviation 1 / sqrt(12 * 400).
    assert abs(constant.mean() - 0.5) <= 5 / np.sqrt(12 * 400)


def test_training_leaves_the_constant_weight_alone_and_needs_no_mask(fixed_hidden):
    def loss(params):
        return FixedHiddenMLP().apply({**fixed_hidden, "params": params}, rows())

    params = fixed_hidden["params"]
    optimizer = optax.adamw(0.1)
    updates, _ = optimizer.update(
        jax.grad(loss)(params), optimizer.init(params), params
    )
    moved = optax.apply_updates(params, updates)
    assert (moved["linear"]["kernel"] != params["linear"]["kernel"]).all()
    assert jax.tree.structure(moved) == jax.tree.structure(params)


def test_a_row_of_the_wrong_width_is_refused_by_both_widths(fixed_hidden):
    with pytest.raises(ValueError, match="expects rows of width 20, got 21"):
        FixedHiddenMLP().apply(fixed_hidden, rows(width=21))


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


def test_the_gradient_is_the_power_of_two_that_was_multiplied_with():
    y = jnp.linspace(-300.0, 500.0, 40)
    _, pullback = jax.vjp(halve_until_small, y)
    (slope,) = pullback(jnp.ones_like(y))
    np.testing.assert_array_equal(slope, jnp.full_like(y, 0.5 ** count_halvings(y)))


def test_the_loop_ends_with_an_infinity_and_makes_no_halving_with_a_nan():
    infinite, n = halve(jnp.array([jnp.inf, 1.0]))
    assert n == 128 + 2  # finfo(float32).maxexp, and the bits of the size 2
    assert infinite[0] == jnp.inf
    undefined, n = halve(jnp.array([jnp.nan, jnp.inf, 4.0]))
    assert n == 0
    np.testing.assert_array_equal(undefined, [jnp.nan, jnp.inf, 4.0])


def test_nothing_at_all_sums_to_zero(fixed_hidden):
    y, slope = jax.value_and_grad(FixedHiddenMLP().apply, 1)(fixed_hidden, rows(0))
    assert y == 0
    assert slope.shape == (0, 20)


def test_under_vmap_each_example_has_its_own_number_of_halvings():
    y = jnp.array([[0.5], [2.0], [100.0], [jnp.nan], [jnp.inf]])
    np.testing.assert_array_equal(jax.vmap(count_halvings)(y), [0, 1, 7, 0, 129])
