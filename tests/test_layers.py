"""Custom layers: what they compute, that they learn, and that they fit into others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ch4jax.layers import CenteredLayer, MyLinear


def test_the_mean_is_taken_over_the_whole_batch_and_not_by_row():
    x = jnp.array([[0.0, 2.0], [10.0, 20.0]])
    np.testing.assert_array_equal(CenteredLayer().apply({}, x), x - 8.0)


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
