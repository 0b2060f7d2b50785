"""Models of log prices and the weights of their blend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax import parameters
from ch4jax.house_prices.models import (
    Architecture,
    _is_weight,
    blend_weights,
    init,
    predict,
)

LINEAR = Architecture(hidden=(), waves=0)


@pytest.mark.parametrize("architecture", [LINEAR, Architecture(hidden=(8, 4))])
def test_an_untrained_model_predicts_zero_for_any_row(architecture):
    x = jax.random.normal(jax.random.key(0), (5, 40))
    params = init(architecture, 40, key=jax.random.key(1))
    predictions = predict(architecture, params, x, key=None)
    np.testing.assert_array_equal(predictions, np.zeros(5))


def test_nine_hidden_layers_have_nine_masks_of_their_own():
    architecture = Architecture(hidden=(64,) * 9, waves=0)
    params = init(architecture, 64, key=jax.random.key(0))
    params["out"] = jnp.ones(64)
    for layer in params["layers"]:  # silu(20) is 20: each layer is the identity
        layer["kernel"], layer["bias"] = jnp.eye(64), jnp.zeros(64)
    x = jnp.full((100, 64), 20.0)
    whole = predict(architecture, params, x, key=None)
    np.testing.assert_allclose(whole, np.full(100, 64 * 20.0), rtol=1e-6)
    dropped = predict(architecture, params, x, 0.1, key=jax.random.key(1))
    # A unit survives ten independent masks: inputs with 0.95, layers with 0.9.
    survives = 0.95 * 0.9**9
    deviation = 20 / survives * np.sqrt(survives * (1 - survives) * 64 / 100)
    assert abs(dropped.mean() - 64 * 20.0) <= 5 * deviation


def test_the_linear_model_is_linear_and_the_waves_are_periodic():
    key = jax.random.key(0)
    x = jax.random.normal(key, (5, 3))
    params = {"shortcut": jnp.arange(3.0), "bias": jnp.array(2.0)}
    params = init(LINEAR, 3, key=jax.random.key(1)) | params
    np.testing.assert_allclose(
        predict(LINEAR, params, x, key=None), 0.1 * x @ jnp.arange(3.0) + 2, rtol=1e-6
    )
    wavy = Architecture(hidden=(8,), waves=1, frequencies=1)
    params = init(wavy, 3, key=jax.random.key(1))
    params["out"] = jnp.ones(8)
    params["frequency"] = jnp.array([[0.5]])  # a period of 2
    params["layers"][0]["kernel"] = params["layers"][0]["kernel"].at[0].set(0.0)
    at, later, half = (
        predict(wavy, params, x.at[:, 0].add(shift), key=None) for shift in (0, 2, 1)
    )
    np.testing.assert_allclose(at, later, rtol=1e-4)
    assert not np.allclose(at, half)


def test_dropout_is_random_in_training_and_keeps_the_expectation():
    params = init(LINEAR, 50, key=jax.random.key(0)) | {"shortcut": jnp.ones(50)}
    x = jnp.ones((4000, 50))
    dropped = predict(LINEAR, params, x, 0.4, key=jax.random.key(1))
    # inputs are dropped with 0.2: 0.1 * Binomial(50, 0.8) / 0.8
    five_sigma = 5 * 0.1 * np.sqrt(50 * 0.8 * 0.2) / 0.8 / np.sqrt(4000)
    assert abs(dropped.mean() - 5.0) < five_sigma
    assert np.unique(dropped).size > 5


def test_only_weights_decay():
    params = init(Architecture(hidden=(8, 4)), 40, key=jax.random.key(0))
    mask = parameters.flatten(_is_weight(params))
    assert mask.keys() == parameters.flatten(params).keys()
    decayed = {path for path, is_weight in mask.items() if is_weight}
    assert decayed == {"layers/0/kernel", "layers/1/kernel", "out", "shortcut"}


def test_the_blend_finds_the_weights_that_made_the_prices():
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=(3, 200))
    weights = np.array([0.15, 0.6, 0.25])
    prices = weights @ predictions
    np.testing.assert_allclose(blend_weights(predictions, prices), weights)
    prices[:2] += 100  # two sales far off any trend
    np.testing.assert_allclose(blend_weights(predictions, prices), weights)
