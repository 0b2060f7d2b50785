"""A deep perceptron whose signal you can watch layer by layer (D2L 5.4).

The hidden layers are one stacked array that `lax.scan` runs through: thirty layers
compile as fast as two, and a measure of every layer comes back as one array.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.export import register_namedtuple_serialization
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ch4jax.training import classification_metrics
from ch4jax.training.checks import check_counts, check_width


@partial(register_namedtuple_serialization, serialized_name="ch4jax.deep_mlp.Dense")
class Dense(NamedTuple):
    """Parameters of one layer, or of several stacked along the first axis."""

    kernel: Float[Array, "*layers inputs outputs"]
    bias: Float[Array, "*layers outputs"]


@partial(register_namedtuple_serialization, serialized_name="ch4jax.deep_mlp.Params")
class Params(NamedTuple):
    """Parameters of a deep perceptron with `depth` hidden layers.

    Attributes:
      first: from the input to the first hidden layer.
      hidden: the `depth - 1` layers between hidden layers, stacked.
      output: from the last hidden layer to the logits.
    """

    first: Dense
    hidden: Dense
    output: Dense


class Architecture(NamedTuple):
    """How the layers are computed.

    Attributes:
      activation: of each hidden layer.
      residual: add the input of each stacked layer to its output, which turns the
        product of derivatives into a sum over paths (He et al., 2016).
      layer_norm: shift and scale each activation vector to mean 0 and variance 1
        (Ba et al., 2016), without parameters of its own.
    """

    activation: Callable[[Array], Array]
    residual: bool = False
    layer_norm: bool = False


class Signal(NamedTuple):
    """Activations and gradients of a network, layer by layer.

    Attributes:
      size: root mean square of the activations.
      spread: root mean square of the difference between the activations of an image
        and their mean over the images. Zero: the layer has forgotten its input.
      gradient: norm of the gradient of the mean loss in the kernel.
    """

    size: Float[Array, " depth"]
    spread: Float[Array, " depth"]
    gradient: Float[Array, " depth"]


def init_params(
    num_inputs: int,
    width: int,
    depth: int,
    num_classes: int,
    kernel_init: Callable[..., Array],
    *,
    key: PRNGKeyArray,
) -> Params:
    """Draw the kernels with `kernel_init(key, shape)` and set the biases to zero.

    Raises:
      ValueError: if a size is below 1.
    """
    check_counts(
        num_inputs=num_inputs, width=width, depth=depth, num_classes=num_classes
    )
    first_key, hidden_key, output_key = jax.random.split(key, 3)
    draw_stack = jax.vmap(lambda layer_key: kernel_init(layer_key, (width, width)))
    stack = draw_stack(jax.random.split(hidden_key, depth - 1))
    return Params(
        Dense(kernel_init(first_key, (num_inputs, width)), jnp.zeros(width)),
        Dense(stack, jnp.zeros((depth - 1, width))),
        Dense(kernel_init(output_key, (width, num_classes)), jnp.zeros(num_classes)),
    )


def apply(
    params: Params, x: Float[Array, "batch *image"], architecture: Architecture
) -> tuple[Float[Array, "batch classes"], Float[Array, "depth batch width"]]:
    """Return the logits, and the activations of every hidden layer.

    Raises:
      ValueError: if the rows of `x` do not fit the first kernel; names both shapes.
    """
    check_width(x, params.first.kernel)
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 fails on zero rows

    def layer(dense: Dense, h: Array) -> Array:
        a = architecture.activation(_dense(dense, h))
        return _normalise(a) if architecture.layer_norm else a

    def step(h: Array, dense: Dense) -> tuple[Array, Array]:
        a = layer(dense, h)
        h = h + a if architecture.residual else a
        return h, h

    first = layer(params.first, rows)
    last, others = jax.lax.scan(step, first, params.hidden)
    return _dense(params.output, last), jnp.concatenate([first[None], others])


def signal(
    params: Params,
    x: Float[Array, "batch *image"],
    labels: Shaped[Array, "..."],
    architecture: Architecture,
) -> Signal:
    """Measure activations and gradients of the mean cross-entropy, layer by layer.

    Raises:
      ValueError: as `apply` does, and if `labels` are not integers of shape (batch,).
    """

    def loss(params: Params) -> tuple[Array, Array]:
        logits, activations = apply(params, x, architecture)
        rows = classification_metrics(logits, labels)["loss"]
        return rows.mean(), activations

    grads, activations = jax.grad(loss, has_aux=True)(params)
    kernels = jnp.linalg.norm(grads.hidden.kernel, axis=(1, 2))
    return Signal(
        size=jnp.sqrt((activations**2).mean(axis=(1, 2))),
        spread=jnp.sqrt(activations.var(axis=1).mean(axis=1)),
        gradient=jnp.append(jnp.linalg.norm(grads.first.kernel), kernels),
    )


def unit_spread(kernel: Float[Array, "inputs outputs"]) -> Float[Array, ""]:
    """Return the largest difference between a unit's weights and the first unit's.

    Zero: the units of the layer are copies of each other.
    """
    return jnp.abs(kernel - kernel[:, :1]).max()


def _dense(dense: Dense, h: Array) -> Array:
    return h @ dense.kernel + dense.bias[None, :]


def _normalise(a: Array) -> Array:
    mean = a.mean(axis=-1, keepdims=True)
    return (a - mean) / jnp.sqrt(a.var(axis=-1, keepdims=True) + 1e-5)
