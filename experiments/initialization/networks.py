"""The deep perceptrons that `experiments.initialization` watches and trains."""

from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp

from ch4jax import deep_mlp
from ch4jax import initialization as room
from ch4jax.data.fashion_mnist import to_float
from ch4jax.deep_mlp import Architecture
from ch4jax.training import classification_metrics, population
from experiments.common.console import Report
from experiments.common.loop import Fit, fit

BATCH_SIZE = 32
CLIP = {"norm": 1.0, "value": 0.01}


class Network(NamedTuple):
    """A deep perceptron, in words; `initializers` and `architecture` know them."""

    activation: str
    init: str
    residual: bool = False
    layer_norm: bool = False

    @property
    def label(self) -> str:
        """Name of the network in tables and figures."""
        extras = ", residual" * self.residual + ", layer norm" * self.layer_norm
        return f"{self.activation}, {self.init}{extras}"


class Recipe(NamedTuple):
    """A network and how it is trained.

    Attributes:
      learning_rate: of SGD in the first step; it falls to zero as a cosine does.
        Where it is not 0.01, the label names it.
      clip: `norm` or `value`, to the bound in `CLIP`; empty: not at all.
    """

    network: Network
    learning_rate: float = 0.01
    clip: str = ""

    @property
    def label(self) -> str:
        """Name of the recipe in tables and figures."""
        extra = f", clipped by {self.clip}" if self.clip else ""
        rate = f", rate {self.learning_rate}" * (self.learning_rate != 0.01)
        return f"{self.network.label}{rate}{extra}"


SMALL = Network("ReLU", "N(0, 0.01²)")
LARGE = Network("ReLU", "N(0, 0.3²)")
HE = Network("ReLU", "He")
TANH = Network("tanh", "Xavier")
SIGMOID = Network("sigmoid", "Xavier")
SMALL_RESIDUAL = SMALL._replace(residual=True)
SMALL_NORMED = SMALL._replace(layer_norm=True)
SIGMOID_NORMED = SIGMOID._replace(layer_norm=True)

COMPARISONS = {
    "initialisation and activation": (
        Recipe(SMALL),
        Recipe(SIGMOID),
        Recipe(HE),
        Recipe(TANH),
    ),
    "residual connections": (Recipe(SMALL), Recipe(SMALL_RESIDUAL)),
    "layer normalisation": (
        Recipe(SIGMOID),
        Recipe(SIGMOID_NORMED),
        Recipe(SMALL_NORMED),
    ),
    "gradient clipping": (
        Recipe(HE, 0.2),
        Recipe(HE, 0.2, "norm"),
        Recipe(HE, 0.2, "value"),
        Recipe(LARGE, 0.2),
        Recipe(LARGE, 0.2, "norm"),
    ),
}


def initializers() -> dict[str, Any]:
    """Return the initialisers of kernels by the name they have here."""
    return {
        "N(0, 0.01²)": room.normal(0.01),
        "N(0, 0.3²)": room.normal(0.3),
        "constant 0.01": room.constant(0.01),
        "Xavier": room.xavier_uniform,
        "Xavier, normal": room.xavier_normal,
        "He": room.he_normal,
        "PyTorch's kernel": room.torch_kernel,
        "PyTorch's bias": room.torch_bias(256),
        "the book's own": room.sparse_uniform,
    }


def architecture(network: Network) -> Any:
    """Return what `ch4jax.deep_mlp` calls an architecture."""
    activations = {"ReLU": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
    return Architecture(
        activations[network.activation], network.residual, network.layer_norm
    )


def init_params(network: Network, *, width: int, depth: int, keys: Any) -> Any:
    """Draw the parameters of one network for each key."""
    kernel_init = initializers()[network.init]
    return jax.vmap(
        lambda key: deep_mlp.init_params(
            28 * 28, width, depth, 10, kernel_init, key=key
        )
    )(keys)


def signal(network: Network, data: Any, *, width: int, depth: int, keys: Any) -> Any:
    """Follow 256 images through one untrained network for each key."""
    design = architecture(network)

    @jax.jit
    def measure(params: Any, images: Any, labels: Any) -> Any:
        return jax.vmap(
            lambda member: deep_mlp.signal(member, to_float(images), labels, design)
        )(params)

    params = init_params(network, width=width, depth=depth, keys=keys)
    labels = data.train_labels[:256].astype(int)
    return measure(params, data.train_images[:256], labels)


def train(
    recipe: Recipe,
    data: Any,
    report: Report,
    *,
    width: int,
    depth: int,
    epochs: int,
    keys: Any,
) -> Fit:
    """Train one network for each key.

    Raises:
      Failed: if a training loss is no longer finite.
    """
    design = architecture(recipe.network)

    def metrics(params: Any, images: Any, labels: Any, *, key: Any) -> Any:
        logits, _ = deep_mlp.apply(params, to_float(images), design)
        return classification_metrics(logits, labels)

    clip = {
        "": optax.identity(),
        "norm": optax.clip_by_global_norm(CLIP["norm"]),
        "value": optax.clip(CLIP["value"]),
    }[recipe.clip]
    steps = epochs * -(-len(data.train_images) // BATCH_SIZE)
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, steps)
    optimizer = optax.chain(clip, optax.sgd(schedule))
    init_keys, train_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    params = init_params(recipe.network, width=width, depth=depth, keys=init_keys)
    return fit(
        report,
        recipe.label,
        population.init_states(params, optimizer),
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
        epochs=epochs,
        keys=train_keys,
        metrics_fn=metrics,
        optimizer=optimizer,
        batch_size=BATCH_SIZE,
    )
