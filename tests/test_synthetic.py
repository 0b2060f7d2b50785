"""Data from a linear model: the law it is drawn from, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np

from ch4jax.data.synthetic import linear_regression


def test_labels_are_linear_in_the_features_up_to_the_noise():
    w, n = jnp.full((20, 1), 0.3), 5000
    x, y = linear_regression(w, 4.0, n, noise=0.1, key=jax.random.key(0))
    assert x.shape == (n, 20)
    assert y.shape == (n, 1)
    residual = np.asarray(y - (x @ w + 4.0))
    assert abs(residual.mean()) <= 5 * 0.1 / np.sqrt(n)
    assert abs(residual.std() - 0.1) <= 5 * 0.1 / np.sqrt(2 * n)


def test_features_are_standard_normal_and_the_noise_is_independent_of_them():
    w, n = jnp.zeros((3, 1)), 5000
    x, y = linear_regression(w, 0.0, n, noise=1.0, key=jax.random.key(1))
    table = np.concatenate([x, y], axis=1)
    # Correlations of independent columns have standard error 1 / sqrt(n).
    assert abs(np.cov(table.T) - np.eye(4)).max() <= 5 * np.sqrt(2 / n)
