"""Initialisers, and why deep networks need good ones (D2L 5.4 and 6.3).

An *initialiser* is what Flax means by it: a function `(key, shape, dtype) -> array`
that fits `kernel_init` or `bias_init`. Where one has a parameter, the function of that
name returns it: `normal(0.01)` is an initialiser, and so is `xavier_uniform`. Kernels
are (inputs, outputs).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Shape = tuple[int, ...]
Initializer = Callable[..., Array]


def normal(std: float) -> Initializer:
    """Return the initialiser that draws from N(0, `std`²).

    Raises:
      ValueError: if `std` is negative or not finite.
    """
    if not 0.0 <= std < math.inf:
        raise ValueError(f"std must be at least 0 and finite, got {std}")

    def init(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
        return std * jax.random.normal(key, shape, dtype)

    return init


def constant(value: float) -> Initializer:
    """Return the initialiser that makes every entry `value` and leaves the key alone.

    As a kernel it makes the units of a layer equal, and training keeps them so.
    """

    def init(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
        return jnp.full(shape, value, dtype)

    return init


def xavier_uniform(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
    """Draw a kernel from U(-a, a) with a = sqrt(6 / (inputs + outputs)).

    The variance, 2 / (inputs + outputs), is a compromise between keeping that of the
    activations and that of the gradients (Glorot and Bengio, 2010).

    Raises:
      ValueError: if `shape` is not two sizes of at least 1. So do all that follow.
    """
    return _uniform(key, shape, dtype, math.sqrt(6 / sum(_kernel_sizes(shape))))


def xavier_normal(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
    """Draw a kernel from N(0, 2 / (inputs + outputs)).

    Flax's initialiser of this name cuts the normal off at two deviations.
    """
    return normal(math.sqrt(2 / sum(_kernel_sizes(shape))))(key, shape, dtype)


def he_normal(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
    """Draw a kernel from N(0, 2 / inputs), for ReLU, which halves the second moment.

    He et al., 2015. Flax's initialiser of this name cuts the normal off.
    """
    return normal(math.sqrt(2 / _kernel_sizes(shape)[0]))(key, shape, dtype)


def torch_kernel(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
    """Draw a kernel as PyTorch's Linear does: U(-a, a) with a = 1 / sqrt(inputs)."""
    return _uniform(key, shape, dtype, 1 / math.sqrt(_kernel_sizes(shape)[0]))


def torch_bias(fan_in: int) -> Initializer:
    """Return PyTorch's initialiser for the bias of a Linear with `fan_in` inputs.

    It is that of the kernel. The shape of a bias does not tell the inputs of its
    layer, so they are passed in.

    Raises:
      ValueError: if `fan_in` is below 1.
    """
    if fan_in < 1:
        raise ValueError(f"fan_in must be at least 1, got {fan_in}")

    def init(key: PRNGKeyArray, shape: Shape, dtype: Any = float) -> Array:
        return _uniform(key, shape, dtype, 1 / math.sqrt(fan_in))

    return init


def sparse_uniform(
    key: PRNGKeyArray,
    shape: Shape,
    dtype: Any = float,
    *,
    bound: float = 10.0,
    threshold: float = 5.0,
) -> Array:
    """Draw from U(-bound, bound) and set to zero what is below `threshold` in size.

    The book's example of an initialiser of one's own: about half are zero.
    """
    w = _uniform(key, shape, dtype, bound)
    return jnp.where(jnp.abs(w) >= threshold, w, 0)


def sigmoid_gradient(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the derivative of the sigmoid: 1/4 at zero, vanishing on both sides.

    >>> sigmoid_gradient(jnp.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.25, 0.0]
    """
    y = jax.nn.sigmoid(x)
    return y * (1 - y)


def product_log_norms(
    num_factors: int, size: int, std: float, *, key: PRNGKeyArray
) -> Float[Array, " factors"]:
    """Multiply random square matrices; return the log of the norm after each factor.

    The product is scaled back to norm 1 after each factor: a hundred factors leave the
    range of float32.

    Args:
      num_factors: matrices to multiply.
      size: their rows and columns.
      std: of their entries. The mean of the *squared* Frobenius norm after k factors
        is `size * (size * std**2) ** k`.
      key: consumed here.

    Returns:
      Natural logarithms of Frobenius norms.
    """
    factors = normal(std)(key, (num_factors, size, size))

    def multiply(product: Array, factor: Array) -> tuple[Array, Array]:
        product = product @ factor
        norm = jnp.linalg.norm(product)
        return product / norm, jnp.log(norm)

    return jnp.cumsum(jax.lax.scan(multiply, jnp.eye(size), factors)[1])


def _uniform(key: PRNGKeyArray, shape: Shape, dtype: Any, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _kernel_sizes(shape: Shape) -> Shape:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(
            f"a kernel has the shape (inputs, outputs), each at least 1, got {shape}"
        )
    return shape
