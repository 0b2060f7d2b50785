"""The custom layer `MyLinear`: its start and its widths; see also `test_modules`."""

import jax
import jax.numpy as jnp
import numpy as np

from ch4jax.layers import MyLinear


def test_weights_and_biases_start_from_the_standard_normal():
    x = jnp.ones((1, 300))
    params = jax.jit(MyLinear(300, 300).init)(jax.random.key(0), x)["params"]
    for a in map(np.ravel, (params["weight"], params["bias"])):
        assert abs(a.mean()) <= 5 / np.sqrt(a.size)
        assert abs(a.var() - 1) <= 5 * np.sqrt(2 / a.size)
    assert (params["weight"][0] != params["bias"]).all()
