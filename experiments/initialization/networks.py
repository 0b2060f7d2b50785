"""The deep perceptrons that `experiments.initialization` measures and trains."""

from functools import partial
from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from ch4jax import deep_mlp, initialization
from ch4jax.data.fashion_mnist import FashionMNIST, to_float
from ch4jax.training import population
from experiments.common import loop
from experiments.common.cli import TrainingFlags
from experiments.common.loop import Trained
from experiments.common.networks import classifier
from experiments.common.run_folder import RunFolder

BATCH_SIZE = 32
ACTIVATIONS = {"ReLU": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
INITIALIZERS = {
    "N(0, 0.01²)": initialization.normal(0.01),
    "N(0, 0.3²)": initialization.normal(0.3),
    "constant 0.01": initialization.constant(0.01),
    "Xavier": initialization.xavier_uniform,
    "Xavier, normal": initialization.xavier_normal,
    "He": initialization.he_normal,
    "PyTorch's kernel": initialization.torch_kernel,
    "PyTorch's bias": initialization.torch_bias(256),
    "the book's own": initialization.sparse_uniform,
}
CLIPPING = {
    "": optax.identity(),
    "norm": optax.clip_by_global_norm(1.0),
    "value": optax.clip(0.01),
}


class Variant(NamedTuple):
    """A deep perceptron, and how it is trained.

    Attributes:
      activation: a key of `ACTIVATIONS`.
      initializer: of the kernels, a key of `INITIALIZERS`.
      residual: see `deep_mlp.Architecture`.
      layer_norm: see there.
      learning_rate: of SGD in the first step; it falls to zero along a cosine.
      clipping: of the gradient, a key of `CLIPPING`.
    """

    activation: str
    initializer: str
    residual: bool = False
    layer_norm: bool = False
    learning_rate: float = 0.01
    clipping: str = ""

    @property
    def label(self) -> str:
        """Name in tables and figures; names the learning rate unless it is 0.01."""
        label = f"{self.activation}, {self.initializer}"
        label += ", residual" * self.residual + ", layer norm" * self.layer_norm
        if self.learning_rate != 0.01:
            label += f", rate {self.learning_rate}"
        return label + (f", clipped by {self.clipping}" if self.clipping else "")

    @property
    def architecture(self) -> deep_mlp.Architecture:
        """What `deep_mlp.apply` does with the parameters."""
        activation = ACTIVATIONS[self.activation]
        return deep_mlp.Architecture(activation, self.residual, self.layer_norm)


SMALL = Variant("ReLU", "N(0, 0.01²)")
LARGE = Variant("ReLU", "N(0, 0.3²)")
HE = Variant("ReLU", "He")
TANH = Variant("tanh", "Xavier")
SIGMOID = Variant("sigmoid", "Xavier")
SMALL_RESIDUAL = SMALL._replace(residual=True)
SMALL_NORMED = SMALL._replace(layer_norm=True)
SIGMOID_NORMED = SIGMOID._replace(layer_norm=True)
HE_FAST = HE._replace(learning_rate=0.2)
LARGE_FAST = LARGE._replace(learning_rate=0.2)

# What fails is drawn solid, and its remedy dashed in the same colour.
WATCHED = {
    SMALL: (0, "-"),
    SMALL_RESIDUAL: (0, "--"),
    SIGMOID: (1, "-"),
    SIGMOID_NORMED: (1, "--"),
    LARGE: (3, "-"),
    SMALL_NORMED: (4, "-"),
    HE: (2, "-"),
    TANH: (5, "-"),
}
COMPARISONS = {
    "initialisation and activation": (SMALL, SIGMOID, HE, TANH),
    "residual connections": (SMALL, SMALL_RESIDUAL),
    "layer normalisation": (SIGMOID, SIGMOID_NORMED, SMALL_NORMED),
    "gradient clipping": (
        HE_FAST,
        HE_FAST._replace(clipping="norm"),
        HE_FAST._replace(clipping="value"),
        LARGE_FAST,
        LARGE_FAST._replace(clipping="norm"),
    ),
}

VARIANTS = tuple(dict.fromkeys(sum(COMPARISONS.values(), ())))


class Setting(NamedTuple):
    """What all networks of a run share.

    Attributes:
      data: what they are trained on.
      width: units of each hidden layer.
      depth: hidden layers.
      epochs: passes over the data.
      seeds: networks of each variant, from the seeds SEED, SEED + 1, ...
      flags: the seed, and those of `loop.train`.
      folder: where the metrics and figures go.
    """

    data: FashionMNIST
    width: int
    depth: int
    epochs: int
    seeds: int
    flags: TrainingFlags
    folder: RunFolder

    @property
    def keys(self) -> Key[Array, " seeds"]:
        """A key for each network of a variant; the same for every variant."""
        return population.seed_keys(self.flags.seed, self.seeds)


def init_params(
    variant: Variant, setting: Setting, keys: Key[Array, " seeds"]
) -> deep_mlp.Params:
    """Draw the parameters of one network for each key."""

    def init(key: PRNGKeyArray) -> deep_mlp.Params:
        kernel_init = INITIALIZERS[variant.initializer]
        size = (setting.width, setting.depth)
        return deep_mlp.init_params(28 * 28, *size, 10, kernel_init, key=key)

    return jax.vmap(init)(keys)


def signal(variant: Variant, setting: Setting) -> deep_mlp.Signal:
    """Follow 256 images through the untrained networks of a variant."""

    @jax.jit
    @jax.vmap
    def measure(params: deep_mlp.Params) -> deep_mlp.Signal:
        images = to_float(jnp.asarray(setting.data.train_images[:256]))
        labels = jnp.asarray(setting.data.train_labels[:256], int)
        return deep_mlp.signal(params, images, labels, variant.architecture)

    return measure(init_params(variant, setting, setting.keys))


def train(variant: Variant, setting: Setting) -> Trained:
    """Train the networks of a variant.

    Raises:
      Failed: if a training loss is not finite.
    """

    @classifier
    def metrics_fn(params: PyTree, images: Array, *, key: PRNGKeyArray | None) -> Array:
        return deep_mlp.apply(params, to_float(images), variant.architecture)[0]

    steps = setting.epochs * -(-len(setting.data.train_images) // BATCH_SIZE)
    schedule = optax.cosine_decay_schedule(variant.learning_rate, steps)
    optimizer = optax.chain(CLIPPING[variant.clipping], optax.sgd(schedule))
    return loop.train(
        variant.label,
        partial(init_params, variant, setting),
        setting.data,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        epochs=setting.epochs,
        batch_size=BATCH_SIZE,
        flags=setting.flags,
        folder=setting.folder,
        seed_keys=setting.keys,
    )
