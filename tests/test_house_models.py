"""Models of log prices."""

import jax
import jax.numpy as jnp
import numpy as np

from ch4jax import parameters
from ch4jax.house_prices.models import Architecture, _is_weight, init, predict


def test_an_untrained_model_predicts_zero_for_any_row():
    x = jax.random.normal(jax.random.key(0), (5, 40))
    params = init(Architecture(hidden=(8, 4)), 40, key=jax.random.key(1))
    np.testing.assert_array_equal(predict(params, x, key=None), np.zeros(5))


def test_nine_hidden_layers_have_nine_masks_of_their_own():
    architecture = Architecture(hidden=(64,) * 9, waves=0)
    params = init(architecture, 64, key=jax.random.key(0))
    for layer in params["layers"]:  # silu(20) is 20: each layer is the identity
        layer["kernel"], layer["bias"] = jnp.eye(64), jnp.zeros(64)
    params["layers"][-1] = {"kernel": jnp.ones((64, 1)), "bias": jnp.zeros(1)}
    x = jnp.full((100, 64), 20.0)
    whole = predict(params, x, key=None)
    np.testing.assert_allclose(whole, np.full(100, 64 * 20.0), rtol=1e-6)
    dropped = predict(params, x, 0.1, key=jax.random.key(1))
    survives = 0.9**10  # ten independent masks, that of the inputs among them
    deviation = 20 / survives * np.sqrt(survives * (1 - survives) * 64 / 100)
    assert abs(dropped.mean() - 64 * 20.0) <= 5 * deviation
    assert np.unique(dropped).size > 5


def test_the_waves_are_periodic():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    params = init(Architecture((8,), 1, 1), 3, key=jax.random.key(1))
    params["layers"][-1]["kernel"] = jnp.ones((8, 1))
    params["frequency"] = jnp.array([[0.5]])  # a period of 2
    params["layers"][0]["kernel"] = params["layers"][0]["kernel"].at[0].set(0.0)
    at, later, half = (
        predict(params, x.at[:, 0].add(shift), key=None) for shift in (0, 2, 1)
    )
    np.testing.assert_allclose(at, later, rtol=1e-4)
    assert not np.allclose(at, half)


def test_only_kernels_decay():
    params = init(Architecture(hidden=(8, 4)), 40, key=jax.random.key(0))
    mask = parameters.flatten(_is_weight(params))
    assert mask.keys() == parameters.flatten(params).keys()
    decayed = {path for path, is_weight in mask.items() if is_weight}
    assert decayed == {f"layers/{i}/kernel" for i in range(3)}
