"""Data drawn from a known linear model (D2L 3.3 and 3.7)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax.training.checks import check_counts


def linear_regression(
    w: Float[Array, "inputs 1"],
    b: float,
    num_rows: int,
    *,
    noise: float = 0.01,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "rows inputs"], Float[Array, "rows 1"]]:
    """Draw rows of `y = x w + b + noise`, with `x` from N(0, 1).

    Args:
      w: true weights.
      b: true bias.
      num_rows: rows to draw.
      noise: standard deviation of the noise on each label.
      key: consumed here; split between features and noise, because with one key for
        both the noise would equal a feature.

    Raises:
      ValueError: if `num_rows` is below 1 or `noise` is negative or not finite.
    """
    check_counts(num_rows=num_rows)
    if not 0.0 <= noise < float("inf"):
        raise ValueError(f"noise must be a standard deviation >= 0, got {noise}")
    feature_key, noise_key = jax.random.split(key)
    x = jax.random.normal(feature_key, (num_rows, w.shape[0]), w.dtype)
    y = x @ w + float(b)
    noise = float(noise)  # a np.float64 would turn bfloat16 into float32
    return x, y + noise * jax.random.normal(noise_key, y.shape, jnp.result_type(y))
