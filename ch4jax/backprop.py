"""Forward and backward propagation written out by hand (D2L 5.3).

One hidden layer without biases, cross-entropy, and an L2 penalty on both weights:

    z = x w1    h = tanh(z)    o = h w2    L = mean cross-entropy of o
    s = lambd / 2 (||w1||² + ||w2||²)      J = L + s

The names are the book's. Rows are examples, so its `W x` is `x w` here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.export import register_namedtuple_serialization
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from ch4jax.training.checks import (
    check_counts,
    check_labels,
    check_one_shape,
    check_width,
)

Lambd = float | Float[Array, ""]


@partial(register_namedtuple_serialization, serialized_name="ch4jax.backprop.Params")
class Params(NamedTuple):
    """The weights of both layers."""

    w1: Float[Array, "inputs hidden"]
    w2: Float[Array, "hidden classes"]


class Forward(NamedTuple):
    """Every quantity of the forward pass, in the order it is computed.

    Attributes:
      z: input of the activation.
      h: its output.
      o: logits.
      L: cross-entropy in nats, mean over the batch.
      s: L2 penalty.
      J: the objective, `L + s`.
    """

    z: Float[Array, "batch hidden"]
    h: Float[Array, "batch hidden"]
    o: Float[Array, "batch classes"]
    L: Float[Array, ""]
    s: Float[Array, ""]
    J: Float[Array, ""]


class Gradients(NamedTuple):
    """The gradient of `J` in each quantity, in the order it is computed."""

    J: Float[Array, ""]
    L: Float[Array, ""]
    s: Float[Array, ""]
    o: Float[Array, "batch classes"]
    w2: Float[Array, "hidden classes"]
    h: Float[Array, "batch hidden"]
    z: Float[Array, "batch hidden"]
    w1: Float[Array, "inputs hidden"]


class SavedBytes(NamedTuple):
    """Bytes kept in memory between the forward and the backward pass.

    Attributes:
      arguments: of parameters and data, which are in memory anyway.
      intermediates: of what the forward pass computed and the backward pass needs.
    """

    arguments: int
    intermediates: int


def init_params(
    num_inputs: int, num_hidden: int, num_classes: int, *, key: PRNGKeyArray
) -> Params:
    """Draw each weight from N(0, 1 / inputs of its layer).

    Raises:
      ValueError: if a size is below 1.
    """
    sizes = (num_inputs, num_hidden, num_classes)
    check_counts(num_inputs=num_inputs, num_hidden=num_hidden, num_classes=num_classes)
    w1_key, w2_key = jax.random.split(key)
    return Params(
        jax.random.normal(w1_key, sizes[:2]) / num_inputs**0.5,
        jax.random.normal(w2_key, sizes[1:]) / num_hidden**0.5,
    )


def forward(
    params: Params,
    x: Float[Array, "batch inputs"],
    labels: Shaped[Array, "..."],
    lambd: Lambd,
) -> Forward:
    """Return every quantity of the forward pass.

    Raises:
      ValueError: if two shapes do not fit; names both.
    """
    w1, w2 = params
    check_width(x, w1)
    if w1.shape[1] != w2.shape[0]:
        raise ValueError(f"w1 of shape {w1.shape} does not fit w2 of shape {w2.shape}")
    z = x @ w1
    h = jnp.tanh(z)
    o = h @ w2
    L = cross_entropy(o, labels)
    s = l2_penalty(params, lambd)
    return Forward(z, h, o, L, s, L + s)


def backward(
    params: Params,
    x: Float[Array, "batch inputs"],
    labels: Shaped[Array, "..."],
    lambd: Lambd,
    kept: Forward,
) -> Gradients:
    """Return the gradient of `J` in each quantity, by the chain rule, by hand.

    Args:
      params: see `forward`.
      x: see `forward`.
      labels: see `forward`.
      lambd: see `forward`.
      kept: what `forward` returned for these. Only `h` and `o` are used.
    """
    w1, w2 = params
    one = jnp.ones_like(kept.J)
    hit = _one_hot(kept.o, labels)
    o = (jax.nn.softmax(kept.o) - hit) / labels.shape[0]  # L is a mean
    h = o @ w2.T
    z = h * (1 - kept.h**2)  # tanh' in terms of tanh, so z need not be kept
    return Gradients(
        J=one,
        L=one,  # J = L + s
        s=one,
        o=o,
        w2=kept.h.T @ o + lambd * w2,
        h=h,
        z=z,
        w1=x.T @ z + lambd * w1,
    )


def autodiff(
    params: Params,
    x: Float[Array, "batch inputs"],
    labels: Shaped[Array, "..."],
    lambd: Lambd,
) -> Gradients:
    """Return what `backward` returns, from `jax.grad` of what follows each quantity."""
    kept = forward(params, x, labels, lambd)
    w1, w2 = params

    def after_o(o: Array) -> Array:
        return cross_entropy(o, labels) + kept.s

    def after_h(h: Array) -> Array:
        return after_o(h @ w2)

    def objective(params: Params) -> Array:
        return forward(params, x, labels, lambd).J

    return Gradients(
        J=jax.grad(lambda J: J)(kept.J),
        L=jax.grad(lambda L: L + kept.s)(kept.L),
        s=jax.grad(lambda s: kept.L + s)(kept.s),
        o=jax.grad(after_o)(kept.o),
        w2=jax.grad(lambda w2: objective(Params(w1, w2)))(w2),
        h=jax.grad(after_h)(kept.h),
        z=jax.grad(lambda z: after_h(jnp.tanh(z)))(kept.z),
        w1=jax.grad(lambda w1: objective(Params(w1, w2)))(w1),
    )


def cross_entropy(
    o: Float[Array, "batch classes"], labels: Shaped[Array, "..."]
) -> Float[Array, ""]:
    """Return the mean over the batch of -log softmax(o)[label], in nats.

    It is NaN if a label is no class.

    Raises:
      ValueError: if `labels` are not integers of shape (batch,).
    """
    hit = _one_hot(o, labels)
    return -(jax.nn.log_softmax(o) * hit).sum(axis=1).mean()


def _one_hot(o: Array, labels: Array) -> Array:
    check_labels(o, labels)
    hit = jax.nn.one_hot(labels, o.shape[1], dtype=o.dtype)
    return jnp.where(hit.any(axis=1, keepdims=True), hit, jnp.nan)


def l2_penalty(params: Params, lambd: Lambd) -> Float[Array, ""]:
    """Return `lambd / 2` times the sum of the squared weights of both layers."""
    w1, w2 = params
    return lambd / 2 * ((w1 * w1).sum() + (w2 * w2).sum())


def directional_difference(
    fn: Callable[[PyTree], Array],
    params: PyTree,
    direction: PyTree,
    step: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Return the slope of `fn` along `direction` by a central difference.

    Its error is of order `step`², plus the rounding error of `fn` divided by `step`.

    Raises:
      ValueError: if `direction` has not the shapes of `params`.
    """
    jax.tree.map(lambda p, d: check_one_shape(params=p, direction=d), params, direction)
    ahead = jax.tree.map(lambda p, d: p + step * d, params, direction)
    behind = jax.tree.map(lambda p, d: p - step * d, params, direction)
    return (fn(ahead) - fn(behind)) / (2 * step)


def saved_bytes(fn: Callable[..., Array], params: PyTree, *data: Array) -> SavedBytes:
    """Count what `jax.vjp` of `fn(params, *data)` in `params` keeps.

    The function that `jax.vjp` returns is a tree; its leaves are the arrays that the
    backward pass will read. This is what JAX asks for: inside `jit` the compiler may
    still fuse or recompute some of it.
    """
    params, data = jax.tree.map(jnp.asarray, (params, data))  # NumPy's are copied
    _, backward_fn = jax.vjp(lambda params: fn(params, *data), params)
    arguments = {id(leaf) for leaf in jax.tree.leaves((params, data))}
    kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(backward_fn)}
    of_arguments = sum(kept[address] for address in arguments & kept.keys())
    return SavedBytes(of_arguments, sum(kept.values()) - of_arguments)
