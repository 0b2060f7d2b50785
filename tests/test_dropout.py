"""Dropout: what the layer does, and that scratch and Flax are one network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax.dropout import DropoutMLP, dropout_layer, init_mlp, mlp

RATES = (0.2, 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.5, 0.9, 1.0])
def test_dropout_keeps_the_right_fraction_and_rescales_it(rate):
    n = 100_000
    y = np.asarray(dropout_layer(jnp.ones(n), rate, key=jax.random.key(0)))
    kept = y[y != 0]
    np.testing.assert_allclose(kept * (1 - rate), 1, rtol=1e-6)
    five_sigma = 5 * np.sqrt(n * rate * (1 - rate))  # Binomial(n, 1 - rate)
    assert abs(kept.size - n * (1 - rate)) <= five_sigma


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_what_is_kept_of_integers_is_not_rounded_to_them(dtype):
    x = jnp.ones(100, dtype)
    kept = np.unique(dropout_layer(x, 0.2, key=jax.random.key(0)))
    np.testing.assert_allclose(kept, [0, 1.25])


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_the_gradient_is_the_mask_over_the_fraction_kept(rate):
    x = jnp.linspace(-2.0, 2.0, 64)
    y, pullback = jax.vjp(lambda x: dropout_layer(x, rate, key=jax.random.key(3)), x)
    (gradient,) = pullback(jnp.ones_like(y))
    np.testing.assert_allclose(gradient, y / x, rtol=1e-6)
    assert np.isfinite(gradient).all()


def flax_init(key):
    variables = DropoutMLP().init(key, jnp.ones((1, 28, 28)), train=False)
    return [variables["params"][f"Dense_{i}"] for i in range(3)]


@pytest.mark.parametrize("init", [lambda key: init_mlp(std=0.01, key=key), flax_init])
def test_weights_begin_normal_and_biases_as_in_pytorch(init):
    for layer in init(jax.random.key(0)):
        kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        assert abs(kernel.std() - 0.01) <= 5 * 0.01 / np.sqrt(2 * kernel.size)
        bound = len(kernel) ** -0.5
        assert 0.5 * bound < abs(bias).max() <= bound


def test_scratch_and_flax_are_the_same_function_of_the_same_parameters():
    model = DropoutMLP(hidden=(32, 16), rates=RATES)
    x = jax.random.normal(jax.random.key(0), (5, 28, 28))
    layers = init_mlp((784, 32, 16, 10), std=0.1, key=jax.random.key(1))
    variables = {"params": {f"Dense_{i}": layer for i, layer in enumerate(layers)}}
    expected = jax.tree.structure(model.init(jax.random.key(2), x, train=False))
    assert jax.tree.structure(variables) == expected
    np.testing.assert_allclose(
        mlp(layers, x, RATES, key=None),
        model.apply(variables, x, train=False),
        rtol=1e-5,
    )
