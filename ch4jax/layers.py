"""Custom layers (D2L 6.5), one without parameters and one with them."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class CenteredLayer(nn.Module):
    """Subtract the mean over all entries, across the batch too.

    >>> CenteredLayer().apply({}, jnp.array([1.0, 2.0, 6.0])).tolist()
    [-2.0, -1.0, 3.0]
    """

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return `x` with mean zero."""
        return x - x.mean()


class MyLinear(nn.Module):
    """Fully connected layer with ReLU; weights and biases start from N(0, 1).

    Attributes:
      in_units: width of the input.
      units: width of the output.
    """

    in_units: int
    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows out"]:
        """Return `relu(x weight + bias)`.

        Raises:
          ValueError: if the rows of `x` are not `in_units` wide.
        """
        if x.shape[-1:] != (self.in_units,):
            raise ValueError(
                f"MyLinear expects rows of width {self.in_units}, got shape {x.shape}"
            )
        normal = nn.initializers.normal(1.0)
        shape = (self.in_units, self.units)
        weight = self.param("weight", normal, shape, jnp.float32)
        bias = self.param("bias", normal, (self.units,), jnp.float32)
        return nn.relu(x @ weight + bias.reshape((1,) * (x.ndim - 1) + bias.shape))
