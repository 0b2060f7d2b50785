"""The dropout MLP as two pure functions, from Flax or from scratch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import numpy as jnp

from ch4jax.data.fashion_mnist import to_float
from ch4jax.dropout import DropoutMLP, init_mlp, mlp
from ch4jax.training import classification_metrics


class Network(NamedTuple):
    """A network for Fashion-MNIST.

    Attributes:
      init: key -> params.
      logits: (params, images, *, key) -> logits; with a key of None, no dropout.
    """

    init: Callable[..., Any]
    logits: Callable[..., Any]


def flax_network(
    hidden: tuple[int, ...], rates: tuple[float, ...], std: float
) -> Network:
    """Return the network as the Flax module defines it."""
    model = DropoutMLP(hidden=hidden, rates=rates, std=std)

    def init(key: Any) -> Any:
        return model.init(key, jnp.zeros((1, 28, 28)), train=False)

    def logits(params: Any, images: Any, *, key: Any) -> Any:
        rngs = None if key is None else {"dropout": key}
        return model.apply(params, images, train=key is not None, rngs=rngs)

    return Network(init, logits)


def scratch_network(
    hidden: tuple[int, ...], rates: tuple[float, ...], std: float
) -> Network:
    """Return the network written with nothing but arrays."""

    def init(key: Any) -> Any:
        return init_mlp((28 * 28, *hidden, 10), std=std, key=key)

    def logits(params: Any, images: Any, *, key: Any) -> Any:
        return mlp(params, images, rates, key=key)

    return Network(init, logits)


NETWORKS = {"flax": flax_network, "scratch": scratch_network}


def metrics_fn(network: Network) -> Callable[..., Any]:
    """Return the metrics function (see `ch4jax.training`) for images in bytes."""

    def metrics(params: Any, images: Any, labels: Any, *, key: Any) -> Any:
        logits = network.logits(params, to_float(images), key=key)
        return classification_metrics(logits, labels)

    return metrics
