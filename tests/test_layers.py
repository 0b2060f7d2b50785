"""Custom layers: what they compute, that they learn, and that they fit into others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ch4jax.layers import CenteredLayer, MyLinear


def test_the_centered_layer_moves_1_to_5_to_minus_2_to_2():
    y = CenteredLayer().apply({}, jnp.arange(1.0, 6.0))
    np.testing.assert_array_equal(y, [-2.0, -1.0, 0.0, 1.0, 2.0])


def test_the_mean_is_taken_over_the_whole_batch_and_not_by_row():
    x = jnp.array([[0.0, 2.0], [10.0, 20.0]])
    np.testing.assert_array_equal(CenteredLayer().apply({}, x), x - 8.0)


def test_centering_passes_gradients_on_less_their_mean():
    x, weights = jnp.arange(6.0).reshape(2, 3), jnp.array([[1.0, 2.0, 4.0], [0, 5, 6]])
    slope = jax.grad(lambda x: (weights * CenteredLayer().apply({}, x)).sum())(x)
    np.testing.assert_allclose(slope, weights - 3.0, rtol=1e-6)


def test_in_a_network_the_centered_layer_adds_no_parameters_and_leaves_mean_zero():
    network = nn.Sequential((nn.Dense(128), CenteredLayer()))
    x = jax.random.uniform(jax.random.key(1), (4, 8))
    y, variables = network.init_with_output(jax.random.key(0), x)
    assert list(variables["params"]) == ["layers_0"]
    assert y.shape == (4, 128)
    # The mean of 512 roundings of numbers of the size of y.
    assert abs(float(y.mean())) <= np.finfo(np.float32).eps * float(jnp.abs(y).max())


def test_my_linear_is_a_product_a_bias_and_a_relu():
    x = jax.random.normal(jax.random.key(1), (50, 5))
    y, variables = MyLinear(5, 3).init_with_output(jax.random.key(0), x)
    weight, bias = variables["params"]["weight"], variables["params"]["bias"]
    assert weight.shape == (5, 3)
    assert bias.shape == (3,)
    z = np.asarray(x, np.float64) @ np.asarray(weight) + np.asarray(bias)
    np.testing.assert_allclose(y, np.maximum(z, 0), rtol=1e-5, atol=1e-5)
    assert ((z < 0).any(axis=0) & (z > 0).any(axis=0)).all()


def test_weights_and_biases_start_from_the_standard_normal():
    x = jnp.ones((1, 300))
    params = jax.jit(MyLinear(300, 300).init)(jax.random.key(0), x)["params"]
    for a in map(np.ravel, (params["weight"], params["bias"])):
        assert abs(a.mean()) <= 5 / np.sqrt(a.size)
        assert abs(a.var() - 1) <= 5 * np.sqrt(2 / a.size)
    assert (params["weight"][0] != params["bias"]).all()


def test_rows_of_the_wrong_width_are_refused_by_both_widths():
    with pytest.raises(ValueError, match="MyLinear expects rows of width 5, got 4"):
        MyLinear(5, 3).init(jax.random.key(0), jnp.ones((2, 4)))
    network = nn.Sequential((MyLinear(64, 8), MyLinear(4, 1)))
    with pytest.raises(ValueError, match="MyLinear expects rows of width 4, got 8"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.ones((2, 64)))


def test_weights_and_biases_have_gradients():
    """The book's layer reads `.data`, so its parameters never learn."""
    x = jax.random.normal(jax.random.key(1), (128, 5))
    y, variables = MyLinear(5, 3).init_with_output(jax.random.key(0), x)

    def loss(variables):
        return optax.l2_loss(MyLinear(5, 3).apply(variables, x), y + 1).sum()

    slopes = jax.grad(loss)(variables)["params"]
    active = (y > 0).astype(float)  # the derivative of the loss is -1 there
    np.testing.assert_allclose(slopes["bias"], -active.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(slopes["weight"], -x.T @ active, rtol=1e-4, atol=1e-4)
