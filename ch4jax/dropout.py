"""Dropout (D2L 5.6): the layer, and an MLP that uses it, from scratch and in Flax.

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", JMLR 15, 2014.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, Real

from ch4jax.initialization import normal, torch_bias, torch_kernel
from ch4jax.training.checks import check_width

MLPParams = list[dict[str, Array]]
STEPS = 2**23  # that a random float32 in [0, 1) can take


def dropout_layer(
    x: Real[Array, "*shape"], rate: float, *, key: PRNGKeyArray
) -> Real[Array, "*shape"]:
    """Zero each entry of `x` with probability `rate` and rescale the rest.

    Survivors are multiplied by `1 / (1 - rate)`, which keeps the expectation. Random
    numbers have steps of 2**-23, so above 0.99 `rate` is rounded down to such a step.

    >>> y = dropout_layer(jnp.ones(1000), 0.5, key=jax.random.key(0))
    >>> jnp.unique(y).tolist()
    [0.0, 2.0]

    Args:
      x: activations, any shape.
      rate: probability of *dropping* an entry. A Python number: it picks the
        branch while the function is traced.
      key: consumed here; the caller must not use it again.

    Raises:
      ValueError: if `rate` is outside [0, 1].
    """
    rate = _drawn(rate)
    if rate == 0.0:
        return x
    if rate == 1.0:  # 1 / (1 - rate) would make values and gradients infinite
        return jnp.zeros_like(x)
    return mask_and_rescale(x, rate, key=key)


def mask_and_rescale(
    x: Real[Array, "*shape"], rate: float | Float[Array, ""], *, key: PRNGKeyArray
) -> Float[Array, "*shape"]:
    """Take the step of `dropout_layer` with a `rate` that may be a traced array.

    So the rate can follow a schedule, or differ between the members that `jax.vmap`
    maps over, without compiling again. `nn.Dropout` cannot do this: it branches on
    the value of its rate.

    >>> rates = jnp.array([0.0, 0.5])
    >>> drop = jax.vmap(mask_and_rescale, (None, 0))
    >>> y = drop(jnp.ones(1000), rates, key=jax.random.split(jax.random.key(0)))
    >>> [jnp.unique(row).tolist() for row in y]
    [[1.0], [0.0, 2.0]]

    Args:
      x: activations, any shape.
      rate: probability of dropping an entry, in [0, 1). A Python number is checked.
        An array is not: at 1, which `dropout_layer` treats apart, the gradients are
        NaN, and within 1e-4 of 1 it is not rounded, so the expectation is off by more
        than a thousandth.
      key: consumed here.

    Raises:
      ValueError: if `rate` is a Python number outside [0, 1).
    """
    if not isinstance(rate, Array):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"dropout rate must be in [0, 1), got {rate}")
        rate = _drawn(rate)
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    kept = jnp.where(keep, x / (1.0 - rate), 0.0)
    return kept.astype(jnp.result_type(x, 0.0))  # whatever the dtype of `rate`


def _drawn(rate: float) -> float:
    """Return the rate at which a Python number drops: see `dropout_layer`."""
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"dropout rate must be in [0, 1], got {rate}")
    rate = float(rate)  # a np.float64 would turn bfloat16 into float32
    return rate if rate <= 0.99 else 1.0 - math.ceil((1.0 - rate) * STEPS) / STEPS


def _check_rates(rates: Sequence[float | Float[Array, ""]], num_hidden: int) -> None:
    if len(rates) != num_hidden:
        raise ValueError(
            f"need one dropout rate for each of {num_hidden} hidden layers, "
            f"got {len(rates)}: {tuple(rates)}"
        )
    for rate in rates:
        if not isinstance(rate, Array):
            _drawn(rate)


def init_mlp(
    sizes: Sequence[int] = (784, 256, 256, 10),
    *,
    std: float | None = None,
    key: PRNGKeyArray,
) -> MLPParams:
    """Draw weights and biases as PyTorch's Linear does: U(-1/√fan_in, 1/√fan_in).

    That is the start of the book's version from scratch. Its concise version draws the
    weights, and only them, from N(0, `std`²).

    Args:
      sizes: width of the input, of each hidden layer, and of the output.
      std: standard deviation of normal weights; None draws them as PyTorch does.
      key: consumed here.

    Returns:
      For each layer its `kernel`, shape (in, out), and its `bias`, shape (out,).
    """
    kernel_key, bias_key = jax.random.split(key)
    kernel_init = _kernel_init(std)
    return [
        {
            "kernel": kernel_init(jax.random.fold_in(kernel_key, i), (fan_in, fan_out)),
            "bias": torch_bias(fan_in)(jax.random.fold_in(bias_key, i), (fan_out,)),
        }
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes))
    ]


def mlp(
    params: MLPParams,
    x: Float[Array, "batch *image"],
    rates: Sequence[float | Float[Array, ""]],
    *,
    key: PRNGKeyArray | None,
) -> Float[Array, "batch classes"]:
    """Apply a ReLU perceptron with dropout after each hidden layer.

    Args:
      params: from `init_mlp`.
      x: one row an example; further axes are flattened.
      rates: probability of dropping a unit, one for each hidden layer; an array, which
        may be traced, is taken by `mask_and_rescale`.
      key: consumed here; hidden layer i draws from `fold_in(key, i)`. None
        evaluates: nothing is dropped.

    Raises:
      ValueError: if there is not one rate for each hidden layer, a rate is outside
        [0, 1], or the rows of `x` do not fit the first kernel.
    """
    *hidden, output = params
    _check_rates(rates, len(hidden))
    h = _flatten(x)
    check_width(x, params[0]["kernel"])
    for i, (layer, rate) in enumerate(zip(hidden, rates, strict=True)):
        h = jax.nn.relu(_dense(layer, h))
        if key is not None:
            layer_key = jax.random.fold_in(key, i)
            if isinstance(rate, Array):
                h = mask_and_rescale(h, rate, key=layer_key)
            else:
                h = dropout_layer(h, rate, key=layer_key)
    return _dense(output, h)


def _kernel_init(std: float | None) -> nn.initializers.Initializer:
    return torch_kernel if std is None else normal(std)


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 fails on zero rows


def _dense(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"][None, :]


class DropoutMLP(nn.Module):
    """ReLU perceptron with dropout after each hidden layer.

    Attributes:
      hidden: width of each hidden layer.
      rates: probability of dropping a unit (not of keeping it), one for each
        hidden layer.
      num_classes: number of logits.
      std: standard deviation of the weights before training; None draws them as
        PyTorch does. Biases are drawn as in `init_mlp`.
    """

    hidden: Sequence[int] = (256, 256)
    rates: Sequence[float] = (0.2, 0.5)
    num_classes: int = 10
    std: float | None = 0.01

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *image"], *, train: bool | None = None
    ) -> Float[Array, "batch classes"]:
        """Return logits; with `train`, masks are drawn from the `dropout` stream.

        `init` needs no `train`.

        Raises:
          ValueError: as `mlp` does, and if `apply` is not given `train`.
        """
        _check_rates(self.rates, len(self.hidden))
        if train is None and not self.is_initializing():
            raise ValueError("DropoutMLP needs train=True or train=False")
        h = _flatten(x)
        for width, rate in zip(self.hidden, self.rates, strict=True):
            h = nn.relu(self._dense(width, h))
            h = nn.Dropout(_drawn(rate), deterministic=not train)(h)
        return self._dense(self.num_classes, h)

    def _dense(self, width: int, h: Array) -> Array:
        return nn.Dense(
            width, kernel_init=_kernel_init(self.std), bias_init=torch_bias(h.shape[-1])
        )(h)
