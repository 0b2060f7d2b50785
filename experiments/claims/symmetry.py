"""Claims about units and layers that start alike."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import deep_mlp
from ch4jax.data import fashion_mnist
from ch4jax.deep_mlp import Architecture, Dense
from ch4jax.dropout import MLPParams, mlp
from ch4jax.initialization import constant, xavier_uniform
from ch4jax.parameters import SharedMLP
from ch4jax.training import Data, Metrics, fit
from experiments.claims.claim import Finding, Setting
from experiments.common import plots
from experiments.common.networks import classifier

RATES = (0.0, 0.5)
START, SIZES = constant(0.01), ((784, 32), (32, 10))
FLOOR = 1e-17  # where a difference of zero is drawn


def apart(kernel: Float[Array, "*more inputs units"]) -> Float[Array, "*more others"]:
    """Return the largest difference of each unit's weights from the first unit's.

    In multiples of the largest weight.
    """
    difference = jnp.abs(kernel - kernel[..., :1]).max(axis=-2)[..., 1:]
    return difference / jnp.abs(kernel).max(axis=(-2, -1))[..., None]


def units_stay_alike(setting: Setting) -> Finding:
    """Claim 16: 32 hidden units from a constant, without and with dropout."""

    def member(key: PRNGKeyArray, rate: Array, data: Data) -> Array:
        @classifier
        def metrics(params: MLPParams, x: Array, *, key: PRNGKeyArray | None) -> Array:
            return mlp(params, fashion_mnist.to_float(x), [rate], key=key)

        row_key, train_key, *start_keys = jax.random.split(key, 4)
        rows = jax.random.permutation(row_key, data[1].size)[:1000]
        start = [
            {"kernel": START(start_key, sizes), "bias": jnp.zeros(sizes[1])}
            for start_key, sizes in zip(start_keys, SIZES, strict=True)
        ]
        _, path = fit(
            start,
            (data[0][rows], data[1][rows]),
            metrics_fn=metrics,
            optimizer=optax.sgd(0.1),
            epochs=10,
            batch_size=50,
            key=train_key,
        )
        return apart(path[0]["kernel"])

    data = fashion_mnist.load("mini").train
    run = jax.jit(jax.vmap(jax.vmap(member, (None, 0, None)), (0, None, None)))
    keys = setting.keys(setting.size(8, 4))
    found = np.asarray(run(keys, jnp.asarray(RATES), data), float)
    with setting.figure(
        height=3.0,
        title="Units that start alike stay alike to the last bit; dropout parts them",
        caption="Without dropout, one hidden unit does the work of all 32.",
        alt="Line chart of the largest relative difference between hidden units, on a "
        "logarithmic axis, against the epoch, with and without dropout.",
    ) as axes:
        for i, label in enumerate(("without dropout", f"dropout {RATES[1]}")):
            values = np.maximum(found[:, i].max(axis=-1).T, FLOOR)
            plots.quantiles(axes, np.arange(1, 11), values, label=label)
        axes.set(xlabel="epoch", yscale="log", ylabel="difference (0 at 1e-17)")
        axes.legend()
    without, dropped = found[:, 0, -1], found[:, 1, -1]
    return Finding(
        "Units that start alike stay alike; dropout breaks the symmetry",
        "4.8; D2L 5.4",
        "of the other units, all (alike; apart)",
        1.0,
        {
            "no dropout: alike": (without == 0).mean(axis=1),
            "dropout: apart": (dropped > 0.01).mean(axis=1),
        },
        exact=True,
    )


def uses_of_a_layer(data: Data, *, key: PRNGKeyArray) -> tuple[Dense, Dense]:
    """Return the gradient of a layer used twice, and of two copies of it, stacked."""
    x, y = data
    drawn = SharedMLP().init(key, x)
    variables = jax.tree.map(lambda a: a.astype(x.dtype), drawn)
    layers = {name: Dense(**layer) for name, layer in variables["params"].items()}
    copies = jax.tree.map(lambda a: jnp.stack([a, a]), layers["shared"])

    def tied(variables: PyTree) -> Array:
        return jnp.square(jnp.asarray(SharedMLP().apply(variables, x))[:, 0] - y).mean()

    def untied(params: deep_mlp.Params) -> Array:
        outputs, _ = deep_mlp.apply(params, x, Architecture(jax.nn.relu))
        return jnp.square(outputs[:, 0] - y).mean()

    params = deep_mlp.Params(layers["hidden"], copies, layers["out"])
    shared = jax.grad(tied)(variables)["params"]["shared"]
    return Dense(**shared), jax.grad(untied)(params).hidden


def stacked_sigmoids(
    data: Data, *, key: PRNGKeyArray
) -> Float[Array, "starts epochs layers inputs units"]:
    """Train two stacked sigmoid layers from a constant, and as copies of one draw.

    Returns:
      Their kernels, at the start and after each epoch.
    """

    def metrics_fn(
        params: deep_mlp.Params, x: Array, y: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        outputs, _ = deep_mlp.apply(params, x, Architecture(jax.nn.sigmoid))
        return {"loss": jnp.square(outputs[:, 0] - y)}

    init_key, train_key = jax.random.split(key)
    drawn = deep_mlp.init_params(4, 8, 3, 1, xavier_uniform, key=init_key)
    kernel = jnp.stack([drawn.hidden.kernel[0]] * 2)
    copied = drawn._replace(hidden=drawn.hidden._replace(kernel=kernel))
    equal = jax.tree.map(lambda a: jnp.full(a.shape, 0.01), drawn)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), equal, copied)
    train = partial(
        fit,
        metrics_fn=metrics_fn,
        optimizer=optax.adam(0.01),
        epochs=100,
        batch_size=256,
        key=train_key,
    )
    _, path = jax.vmap(train, (0, None))(starts, data)
    start = starts.hidden.kernel[:, None]
    return jnp.concatenate([start, path.hidden.kernel], axis=1)


def shared_layer(setting: Setting) -> Finding:
    """Claim 20: a layer used twice; two stacked sigmoid layers without a new draw."""
    x_key, use_key, stack_key = setting.keys(3)
    with jax.enable_x64(True):
        x = jax.random.normal(x_key, (256, 4), float)
        data = x, jnp.sin(3 * x[:, 0]) * x[:, 1]
        shared, uses = jax.device_get(jax.jit(uses_of_a_layer)(data, key=use_key))
        equal, copied = jax.device_get(jax.jit(stacked_sigmoids)(data, key=stack_key))
        units = np.asarray(apart(equal).max(axis=(-2, -1)))
    summed = uses.kernel.sum(axis=0)
    sums = np.linalg.norm(shared.kernel - summed) / np.linalg.norm(summed)
    first, second = (copied[1:] - copied[:1]).swapaxes(0, 1)  # how far each has moved
    layers = np.linalg.norm(second - first, axis=(1, 2))
    layers /= np.linalg.norm(first, axis=(1, 2))
    with setting.figure(
        columns=2,
        height=3.4,
        title="A shared layer's gradient is the sum over its uses; copies part at once",
        caption="Left: each entry of the shared kernel's gradient. Right: units that "
        "start from a constant stay alike; stacked layers that start as copies do not.",
        alt="Scatter plot of the gradient of a shared kernel against the sum of the "
        "gradients of its two uses, all on the diagonal; line chart of the relative "
        "difference between units and between layers against the epoch.",
    ) as (left, right):
        left.axline((0, 0), slope=1, color="0.7")
        for i, name in enumerate(("first use alone", "second use alone")):
            left.plot(uses.kernel[i].ravel(), shared.kernel.ravel(), "x", label=name)
        left.plot(summed.ravel(), shared.kernel.ravel(), "o", label="sum of both")
        left.set(xlabel="gradient of two copies", ylabel="gradient of the shared layer")
        epochs = np.arange(1, 101)
        right.plot(epochs, np.maximum(units[1:], FLOOR), label="units, from a constant")
        right.plot(epochs, layers, "--", label="layers, from one draw: their moves")
        right.set(xlabel="epoch", yscale="log", ylabel="difference (0 at 1e-17)")
        for axes in (left, right):
            axes.legend(fontsize=8)
    found = {
        "layer used twice": sums,
        "units from a constant": units[-1],
        "layers from one draw": layers[-1],
    }
    digits = {name: -np.log10([max(value, 1e-16)]) for name, value in found.items()}
    return Finding(
        "A shared layer's gradient is the sum over its uses; copies learn alike",
        "5.2; D2L 6.2",
        "matching digits",
        12.0,
        digits,
        exact=True,
    )
