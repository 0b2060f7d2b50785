"""Models of log prices and the weights of their blend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax.house_prices import models as house_models
from ch4jax.house_prices.models import Model


@pytest.mark.parametrize("model", [Model(hidden=(), waves=0), Model(hidden=(8, 4))])
def test_an_untrained_model_predicts_zero_whatever_it_is_shown(model):
    x = jax.random.normal(jax.random.key(0), (5, 40))
    params = model.init(40, key=jax.random.key(1))
    np.testing.assert_array_equal(model.predict(params, x, key=None), np.zeros(5))


def test_the_linear_model_is_linear_and_the_waves_are_periodic():
    key = jax.random.key(0)
    x = jax.random.normal(key, (5, 3))
    params = {"shortcut": jnp.arange(3.0), "bias": jnp.array(2.0)}
    linear = Model(hidden=(), waves=0)
    params = linear.init(3, key=jax.random.key(1)) | params
    np.testing.assert_allclose(
        linear.predict(params, x, key=None), 0.1 * x @ jnp.arange(3.0) + 2, rtol=1e-6
    )
    wavy = Model(hidden=(8,), waves=1, frequencies=1)
    params = wavy.init(3, key=jax.random.key(1))
    params["out"] = jnp.ones(8)
    params["frequency"] = jnp.array([[0.5]])  # a period of 2
    params["layers"][0]["kernel"] = params["layers"][0]["kernel"].at[0].set(0.0)
    at, later = x, x.at[:, 0].add(2.0)
    np.testing.assert_allclose(
        wavy.predict(params, at, key=None),
        wavy.predict(params, later, key=None),
        rtol=1e-4,
    )
    half = x.at[:, 0].add(1.0)
    assert not np.allclose(
        wavy.predict(params, at, key=None), wavy.predict(params, half, key=None)
    )


def test_dropout_is_random_in_training_and_keeps_the_expectation():
    model = Model(hidden=(), waves=0)
    params = model.init(50, key=jax.random.key(0)) | {"shortcut": jnp.ones(50)}
    x = jnp.ones((4000, 50))
    dropped = model.predict(params, x, 0.4, key=jax.random.key(1))
    # inputs are dropped with 0.2: 0.1 * Binomial(50, 0.8) / 0.8
    five_sigma = 5 * 0.1 * np.sqrt(50 * 0.8 * 0.2) / 0.8 / np.sqrt(4000)
    assert abs(dropped.mean() - 5.0) < five_sigma
    assert np.unique(dropped).size > 5


def test_only_weights_decay():
    params = Model(hidden=(8, 4)).init(40, key=jax.random.key(0))
    mask = house_models._is_weight(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    decayed = [
        jax.tree_util.keystr(path)
        for path, is_weight in jax.tree_util.tree_leaves_with_path(mask)
        if is_weight
    ]
    assert decayed == [
        "['layers'][0]['kernel']",
        "['layers'][1]['kernel']",
        "['out']",
        "['shortcut']",
    ]


def test_the_blend_finds_the_weights_that_made_the_prices():
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=(3, 200))
    weights = np.array([0.15, 0.6, 0.25])
    prices = weights @ predictions
    np.testing.assert_allclose(house_models.blend_weights(predictions, prices), weights)
    prices[:2] += 100  # two sales far off any trend
    np.testing.assert_allclose(house_models.blend_weights(predictions, prices), weights)
