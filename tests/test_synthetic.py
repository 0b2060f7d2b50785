"""Data from a linear model: the law that they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np

from ch4jax.data.synthetic import linear_regression


def test_features_and_noise_are_normal_and_independent_and_labels_are_linear():
    w, n = jnp.full((20, 1), 0.3), 5000
    x, y = linear_regression(w, 4.0, n, noise=0.1, key=jax.random.key(0))
    assert (x.shape, y.shape) == ((n, 20), (n, 1))
    table = np.concatenate([x, (y - (x @ w + 4.0)) / 0.1], axis=1)
    assert abs(table.mean(axis=0)).max() <= 5 / np.sqrt(n)
    # Correlations of independent columns have standard error 1 / sqrt(n).
    assert abs(np.cov(table.T) - np.eye(21)).max() <= 5 * np.sqrt(2 / n)
