"""The dropout MLP as two pure functions, from Flax or from scratch."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt8

from ch4jax.data.fashion_mnist import to_float
from ch4jax.dropout import DropoutMLP, init_mlp, mlp
from ch4jax.training import Metrics, MetricsFn, classification_metrics


class Logits(Protocol):
    """A forward pass; with a key of None nothing is dropped."""

    def __call__(
        self,
        params: PyTree,
        x: Float[Array, "batch *image"],
        /,
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch classes"]:
        """Return the logits of a batch."""
        ...


class Network(NamedTuple):
    """A network for Fashion-MNIST."""

    init: Callable[[PRNGKeyArray], PyTree]
    logits: Logits


def flax_network(
    hidden: tuple[int, ...], rates: tuple[float, ...], std: float | None
) -> Network:
    """Return the network as the Flax module defines it."""
    model = DropoutMLP(hidden=hidden, rates=rates, std=std)

    def init(key: PRNGKeyArray) -> PyTree:
        return model.init(key, jnp.zeros((1, 28, 28)), train=False)

    def logits(params: PyTree, images: Array, *, key: PRNGKeyArray | None) -> Array:
        rngs = None if key is None else {"dropout": key}
        return jnp.asarray(
            model.apply(params, images, train=key is not None, rngs=rngs)
        )

    return Network(init, logits)


def scratch_network(
    hidden: tuple[int, ...], rates: tuple[float, ...], std: float | None
) -> Network:
    """Return the network written with nothing but arrays."""

    def init(key: PRNGKeyArray) -> PyTree:
        return init_mlp((28 * 28, *hidden, 10), std=std, key=key)

    def logits(params: PyTree, images: Array, *, key: PRNGKeyArray | None) -> Array:
        return mlp(params, images, rates, key=key)

    return Network(init, logits)


NETWORKS = {"scratch": scratch_network, "flax": flax_network}  # the book's order


def classifier(logits: Logits) -> MetricsFn:
    """Return the metrics function (see `ch4jax.training`) of a forward pass."""

    def metrics(
        params: PyTree, x: Array, labels: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        return classification_metrics(logits(params, x, key=key), labels)

    return metrics


def metrics_fn(network: Network) -> MetricsFn:
    """Return the metrics function of a network for images in bytes."""

    @classifier
    def metrics(
        params: PyTree,
        images: UInt8[Array, "batch *image"],
        *,
        key: PRNGKeyArray | None,
    ) -> Array:
        return network.logits(params, to_float(images), key=key)

    return metrics
