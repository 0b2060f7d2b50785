"""Initialisers, and why deep networks need good ones (D2L 5.4 and 6.3).

An *initialiser* is, as in Flax, a function `(key, shape, dtype) -> array` that you can
pass as `kernel_init` or `bias_init`. `xavier_uniform` is one; where there is a
parameter, a function returns one: `normal(0.01)`. Kernels are (inputs, outputs).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax.training.checks import check_counts

Shape = tuple[int, ...]
Initializer = Callable[..., Array]


def normal(std: float) -> Initializer:
    """Return the initialiser that draws from N(0, `std`²).

    Raises:
      ValueError: if `std` is negative or not finite.
    """
    if not 0.0 <= std < math.inf:
        raise ValueError(f"std must be at least 0 and finite, got {std}")

    def init(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
        return float(std) * jax.random.normal(key, shape, dtype)

    return init


def constant(value: float) -> Initializer:
    """Return the initialiser that sets every entry to `value` and ignores the key.

    As a kernel it makes the units of a layer equal, and they stay equal in training.
    """
    return jax.nn.initializers.constant(value)


def xavier_uniform(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
    """Draw a kernel from U(-a, a) with a = sqrt(6 / (inputs + outputs)).

    The variance, 2 / (inputs + outputs), is a compromise between preserving that of
    the activations and that of the gradients (Glorot and Bengio, 2010).

    Raises:
      ValueError: if `shape` is not two sizes of at least 1. The other initialisers of
        kernels below raise it too.
    """
    return _uniform(key, shape, dtype, math.sqrt(6 / sum(_kernel_sizes(shape))))


def xavier_normal(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
    """Draw a kernel from N(0, 2 / (inputs + outputs)).

    Flax's initialiser of this name truncates the normal at two deviations.
    """
    return normal(math.sqrt(2 / sum(_kernel_sizes(shape))))(key, shape, dtype)


def he_normal(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
    """Draw a kernel from N(0, 2 / inputs), for ReLU, which halves the second moment.

    He et al., 2015. Flax's initialiser of this name truncates the normal.
    """
    return normal(math.sqrt(2 / _kernel_sizes(shape)[0]))(key, shape, dtype)


def torch_kernel(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
    """Draw a kernel as PyTorch's Linear does: U(-a, a) with a = 1 / sqrt(inputs)."""
    return _uniform(key, shape, dtype, 1 / math.sqrt(_kernel_sizes(shape)[0]))


def torch_bias(fan_in: int) -> Initializer:
    """Return PyTorch's initialiser for the bias of a Linear with `fan_in` inputs.

    It draws from U(-a, a) with a = 1 / sqrt(fan_in), as for the kernel. The shape of a
    bias does not show the number of inputs, so you pass it.

    Raises:
      ValueError: if `fan_in` is below 1.
    """
    check_counts(fan_in=fan_in)

    def init(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike = float) -> Array:
        return _uniform(key, shape, dtype, 1 / math.sqrt(fan_in))

    return init


def sparse_uniform(
    key: PRNGKeyArray,
    shape: Shape,
    dtype: DTypeLike = float,
    *,
    bound: float = 10.0,
    threshold: float = 5.0,
) -> Array:
    """Draw from U(-bound, bound) and set entries with |w| < `threshold` to zero.

    The book's example of a custom initialiser: by default about half are zero.
    """
    w = _uniform(key, shape, dtype, bound)
    return jnp.where(jnp.abs(w) >= threshold, w, 0)


def sigmoid_gradient(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the derivative of the sigmoid: 1/4 at 0, vanishing on both sides.

    >>> sigmoid_gradient(jnp.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.25, 0.0]
    """
    y = jax.nn.sigmoid(x)
    return y * (1 - y)


def product_log_norms(
    num_factors: int, size: int, std: float, *, key: PRNGKeyArray
) -> Float[Array, " factors"]:
    """Multiply random square matrices; return the log of the norm after each factor.

    The product is scaled to norm 1 after each factor: a hundred factors would exceed
    the range of float32.

    Args:
      num_factors: matrices to multiply.
      size: their rows and columns.
      std: of their entries. The mean of the *squared* Frobenius norm after k factors
        is `size * (size * std**2) ** k`.
      key: consumed here.

    Returns:
      Natural logarithms of Frobenius norms.
    """
    check_counts(num_factors=num_factors, size=size)
    factors = normal(std)(key, (num_factors, size, size))

    def multiply(product: Array, factor: Array) -> tuple[Array, Array]:
        product = product @ factor
        norm = jnp.linalg.norm(product)
        return product / norm, jnp.log(norm)

    return jnp.cumsum(jax.lax.scan(multiply, jnp.eye(size), factors)[1])


def _uniform(key: PRNGKeyArray, shape: Shape, dtype: DTypeLike, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _kernel_sizes(shape: Shape) -> Shape:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(
            f"a kernel has the shape (inputs, outputs), each at least 1, got {shape}"
        )
    return shape
