"""Claims about depth: gradients that vanish or explode, and what helps.

The perceptrons have 32 units a layer and are trained with SGD on 1,000 images of the
shipped tenth at half resolution. Each is trained at five learning rates and judged at
its own best: a remedy must beat what a smaller step does as well.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import deep_mlp
from ch4jax.data import fashion_mnist
from ch4jax.deep_mlp import Architecture
from ch4jax.initialization import (
    Initializer,
    he_normal,
    normal,
    sigmoid_gradient,
    xavier_normal,
)
from ch4jax.training import Data, classification_metrics, fit
from experiments.claims.claim import Finding, Setting
from experiments.common import plots
from experiments.common.networks import classifier

SOURCE = "4.8; D2L 5.4"
GAINED = "accuracy gained"
RATES = np.logspace(-3, 0, 5)
RELU, TANH = Architecture(jax.nn.relu), Architecture(jnp.tanh)
SIGMOID = Architecture(jax.nn.sigmoid)
RESIDUAL = Architecture(jax.nn.relu, residual=True)
NORMED = Architecture(jax.nn.relu, layer_norm=True)
SMALL, LARGE = normal(0.01), normal(0.3)
NO_BOUNDS = (1.0, np.inf, np.inf)
BOUNDS = {  # the gradient is multiplied, then clipped by norm, then by value
    "its length made one": (1e12, 1.0, np.inf),
    "clipped by norm": (1.0, 1.0, np.inf),
    "clipped by value": (1.0, np.inf, 0.01),
}
EPOCHS = 10

Grid = Float[np.ndarray, "networks rates runs"]


def images() -> Data:
    """Return all images of the shipped tenth at half resolution, and their classes."""
    data = fashion_mnist.load("mini")
    x, y = map(jnp.concatenate, zip(data.train, data.test, strict=True))
    return x[:, ::2, ::2], y


def init_params(
    starts: Sequence[Initializer], width: int, depth: int, *, key: PRNGKeyArray
) -> deep_mlp.Params:
    """Draw a network from each start, from the same random numbers, and stack them."""
    init = partial(deep_mlp.init_params, 14 * 14, width, depth, 10)
    drawn = [init(start, key=jax.random.clone(key)) for start in starts]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def kernel_norms(params: deep_mlp.Params) -> Float[Array, " depth"]:
    """Return the norm of the kernel of each hidden layer."""
    stacked = jnp.linalg.norm(params.hidden.kernel, axis=(1, 2))
    return jnp.append(jnp.linalg.norm(params.first.kernel), stacked)


def train(
    setting: Setting,
    architecture: Architecture,
    starts: Sequence[Initializer],
    bounds: Sequence[tuple[float, float, float]] = (NO_BOUNDS,),
    depth: int = 20,
) -> tuple[Grid, Float[np.ndarray, "networks rates runs depth"]]:
    """Train from each start with its bounds on the gradient, at each rate.

    Returns:
      Accuracy on 1,000 other images; how far each kernel moved, relative to its norm.
    """

    @classifier
    def metrics(params: PyTree, x: Array, *, key: PRNGKeyArray | None) -> Array:
        return deep_mlp.apply(params, fashion_mnist.to_float(x), architecture)[0]

    def member(
        start: deep_mlp.Params, bound: Array, rate: Array, rows: Array, data: Data, key
    ) -> tuple[Array, Array]:
        x, y = data
        optimizer = optax.chain(
            optax.scale(bound[0]),
            optax.clip_by_global_norm(bound[1]),
            optax.clip(bound[2]),
            optax.sgd(optax.cosine_decay_schedule(1.0, EPOCHS * 20)),
            optax.scale(rate),
        )
        end, _ = fit(
            start,
            (x[rows[:1000]], y[rows[:1000]]),
            metrics_fn=metrics,
            optimizer=optimizer,
            epochs=EPOCHS,
            batch_size=50,
            key=key,
        )
        new = metrics(end, x[rows[-1000:]], y[rows[-1000:]], key=None)
        moved = kernel_norms(jax.tree.map(jnp.subtract, end, start))
        return new["accuracy"].mean(), moved / kernel_norms(start)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None), out_axes=2)
    def run(key: PRNGKeyArray, bounds: Array, rates: Array, data: Data) -> tuple:
        data_key, init_key, train_key = jax.random.split(key, 3)
        rows = jax.random.permutation(data_key, data[1].size)
        params = init_params(starts, 32, depth, key=init_key)
        each = partial(member, rows=rows, data=data, key=train_key)
        each_rate = jax.vmap(each, (None, None, 0))
        return jax.vmap(each_rate, (0, 0, None))(params, bounds, rates)

    each = jnp.broadcast_to(jnp.asarray(bounds), (len(starts), 3))
    keys = setting.keys(setting.size(8, 3))
    accuracy, moves = run(keys, each, jnp.asarray(RATES), images())
    return np.asarray(accuracy), np.asarray(moves)


def best(accuracy: Grid) -> Float[np.ndarray, "networks runs"]:
    """Return the accuracy of each network at the rate that is best on average."""
    chosen = accuracy.mean(axis=2).argmax(axis=1)
    return accuracy[np.arange(len(accuracy)), chosen]


def curves(axes: plots.Axes, title: str, accuracy: Grid, labels: Sequence[str]) -> None:
    """Draw accuracy against the learning rate, a line for each network."""
    for values, label, dashes in zip(accuracy, labels, plots.DASHES, strict=False):
        plots.band(axes, RATES, values, linestyle=dashes, label=label)
    axes.set(xscale="log", ylim=(0, 1), xlabel="learning rate", ylabel="test accuracy")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)


def gradient_with_depth(setting: Setting) -> Finding:
    """Claim 10: follow the gradient back through twenty layers of three starts."""
    depth = 20
    starts = {"N(0, 0.01²)": SMALL, "N(0, 0.3²)": LARGE, "He": he_normal}

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def gradients(key: PRNGKeyArray, data: Data) -> Float[Array, "starts depth width"]:
        """Return the gradient in the biases; in the kernels it has the signal in it."""
        data_key, init_key = jax.random.split(key)
        rows = jax.random.permutation(data_key, data[1].size)[:200]
        x, y = (a[rows] for a in data)
        params = init_params(list(starts.values()), 64, depth, key=init_key)

        def loss(params: deep_mlp.Params) -> Array:
            logits, _ = deep_mlp.apply(params, fashion_mnist.to_float(x), RELU)
            return classification_metrics(logits, y)["loss"].mean()

        grads = jax.vmap(jax.grad(loss))(params)
        return jnp.concatenate([grads.first.bias[:, None], grads.hidden.bias], axis=1)

    found = np.asarray(gradients(setting.keys(setting.size(100, 40)), images()))
    found = np.linalg.norm(found.astype(float), axis=3)  # float32 ends at 1e-38
    slopes = np.log10(found[..., 0] / found[..., -1]) / (depth - 1)
    factors = ", ".join(
        f"{10 ** slopes[:, i].mean():.3g} ({name})" for i, name in enumerate(starts)
    )
    with setting.figure(
        title=f"Back through each layer the gradient is multiplied by {factors}",
        caption="A start that is too small or too large changes the gradient by a "
        "factor a layer; He's hardly changes it.",
        alt="Line chart of the norm of the gradient, on a logarithmic axis, against "
        "the layer from 1 to 20, a line for each of three starts.",
    ) as axes:
        for i, name in enumerate(starts):
            layers = np.arange(1, depth + 1)
            plots.quantiles(axes, layers, found[:, i].T, label=name)
        axes.set(xlabel="layer, from the input", ylabel="gradient in its bias, norm")
        axes.set(yscale="log", xticks=[1, 5, 10, 15, 20])
        axes.legend()
    return Finding(
        "From a bad start gradients vanish or explode with depth",
        SOURCE,
        "factors of ten a layer",
        0.1,
        {"N(0, 0.01²): vanish": -slopes[:, 0], "N(0, 0.3²): explode": slopes[:, 1]},
    )


def sigmoid_saturates(setting: Setting) -> Finding:
    """Claim 11: the derivative far from zero against that at zero."""
    x = np.linspace(-12, 12, 241)
    activations = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "ReLU": jax.nn.relu}
    with setting.figure(
        height=2.8,
        title="The sigmoid's gradient vanishes on both sides, ReLU's on one",
        caption="Far from zero the sigmoid passes a ten-thousandth of the gradient.",
        alt="Line chart of the derivative of the sigmoid, tanh and ReLU against the "
        "input from -12 to 12, on a logarithmic axis.",
    ) as axes:
        for (name, fn), dashes in zip(activations.items(), plots.DASHES, strict=False):
            slope = np.asarray(jax.vmap(jax.grad(fn))(x))
            axes.plot(x, np.maximum(slope, 1e-6), ls=dashes, label=name)
        axes.set(xlabel="input", yscale="log", ylabel="derivative (zero at 1e-6)")
        axes.legend()
    at_zero, *far = np.asarray(sigmoid_gradient(jnp.array([[0.0], [-10.0], [10.0]])))
    below, above = (np.log10(at_zero / gradient) for gradient in far)
    return Finding(
        "The sigmoid's gradient vanishes for large and small inputs",
        SOURCE,
        "factors of ten below that at 0",
        2.0,
        {"input -10": below, "input 10": above},
        exact=True,
    )


def lower_layers_stay(setting: Setting) -> Finding:
    """Claim 12: sigmoid perceptrons of 2 and of 8 layers from Xavier's start."""
    depths = (2, 8)
    trained = [
        train(setting, SIGMOID, [xavier_normal], depth=depth) for depth in depths
    ]
    accuracy = np.concatenate([accuracy for accuracy, _ in trained])
    rate = accuracy[0].mean(axis=1).argmax()
    moves = [np.maximum(moves[0, rate], 1e-9) for _, moves in trained]
    with setting.figure(
        columns=2,
        height=3.4,
        title="Of eight sigmoid layers only the top ones train, and none of it helps",
        caption="Left: how far each kernel moved in training. Right: depth costs all "
        "of the accuracy.",
        alt="Two line charts, a line for each of the depths 2 and 8: how far a "
        "kernel moved against its layer, on a logarithmic axis; test accuracy against "
        "the learning rate.",
    ) as (left, right):
        for depth, values in zip(depths, moves, strict=True):
            plots.quantiles(left, np.arange(1, depth + 1), values.T, marker="o")
        left.set(xlabel="layer, from the input", ylabel="change / size", yscale="log")
        left.set_title(f"Movement at the rate {RATES[rate]:.2g}", fontsize=9)
        curves(right, "Accuracy", accuracy, [f"{depth} layers" for depth in depths])
    shallow, deep = 1 - best(accuracy)
    return Finding(
        "In a deep sigmoid network the layers near the input do not train",
        SOURCE,
        "doublings, layer 1 to 8 (error: 2 to 8 layers)",
        0.5,
        {
            "movement": np.log2(moves[1][:, -1] / moves[1][:, 0]),
            "test error": np.log2(deep / shallow),
        },
    )


def normalising(setting: Setting) -> Finding:
    """Claim 14: weights of 1.5 times He's size, whose gradients explode."""

    def loud(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return 1.5 * he_normal(key, shape)

    bounds = [NO_BOUNDS, *BOUNDS.values()]
    bounded, _ = train(setting, RELU, [loud] * len(bounds), bounds, 10)
    normed, _ = train(setting, NORMED, [loud], depth=10)
    accuracy = np.concatenate([bounded, normed])
    names = ["as it is", *BOUNDS, "layer normalisation"]
    with setting.figure(
        height=3.6,
        title="Where gradients explode, every way of normalising helps 10 layers",
        caption="Normalised, a network learns, and at far larger learning rates.",
        alt="Line chart of the test accuracy against the learning rate, a line for "
        "each of five ways to treat the gradient.",
    ) as axes:
        curves(axes, "ReLU from 1.5 times He's weights", accuracy, names)
    plain, *others = best(accuracy)
    gained = [scores - plain for scores in others]
    return Finding(
        "Normalising the gradient or the layers helps where gradients explode",
        SOURCE,
        GAINED,
        0.05,
        dict(zip(names[1:], gained, strict=True)),
    )


def start_fits_activation(setting: Setting) -> Finding:
    """Claim 15: He's, Xavier's and a small start, each with ReLU and with tanh."""
    starts = {"He": he_normal, "Xavier": xavier_normal, "N(0, 0.01²)": SMALL}
    each = [train(setting, a, list(starts.values()))[0] for a in (RELU, TANH)]
    with setting.figure(
        columns=2,
        height=3.4,
        sharey=True,
        title="ReLU needs He's start; tanh learns from either",
        caption="From a sensible start 20 layers learn; from N(0, 0.01²) they do not. "
        "Each tanh shrinks the signal, for which He's larger weights make up.",
        alt="Two line charts, for ReLU and tanh, of the test accuracy against the "
        "learning rate, a line for each of three starts.",
    ) as panels:
        for axes, name, accuracy in zip(panels, ("ReLU", "tanh"), each, strict=True):
            curves(axes, name, accuracy, list(starts))
    (he, xavier, small), (tanh_he, tanh_xavier, tanh_small) = map(best, each)
    return Finding(
        "A start that fits the activation helps: He for ReLU, Xavier for tanh",
        SOURCE,
        GAINED,
        0.05,
        {
            "ReLU": he - xavier,
            "tanh": tanh_xavier - tanh_he,
            "against N(0, 0.01²)": (he - small + tanh_xavier - tanh_small) / 2,
        },
    )
