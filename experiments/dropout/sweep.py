"""The sweep: the network from scratch at ten rates, the same in each hidden layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from ch4jax.data.fashion_mnist import CLASSES
from ch4jax.dropout import init_mlp
from experiments.common import plots
from experiments.common.console import count
from experiments.common.loop import Trained
from experiments.common.run_folder import RunFolder

RATES = np.arange(10, dtype=np.float32) * np.float32(0.1)


def at_each_rate(seed_keys: Key[Array, " seeds"]) -> Key[Array, " members"]:
    """Return the keys of the members: rates first, the same seeds at each."""
    return seed_keys[jnp.tile(jnp.arange(len(seed_keys)), len(RATES))]


def init(
    hidden: tuple[int, ...], std: float | None, num_seeds: int
) -> Callable[[Key[Array, " members"]], PyTree]:
    """Return what draws the parameters of all members, their rates among them.

    So one program has all rates; `memorisation.metrics` passes them no gradient.
    """

    def draw(rate: Array, key: PRNGKeyArray) -> PyTree:
        layers = init_mlp((28 * 28, *hidden, len(CLASSES)), std=std, key=key)
        return {"layers": layers, "rates": jnp.full(len(hidden), rate)}

    return partial(jax.vmap(draw), jnp.repeat(jnp.asarray(RATES), num_seeds))


def show(trained: Trained, num_seeds: int, folder: RunFolder) -> dict[str, Any]:
    """Print and draw what the rate does; return means over the seeds."""
    test = {name: trained.history[f"test_{name}"][-1] for name in trained.final}
    curves = {
        "test accuracy": test["accuracy"],
        "test loss (nats)": test["loss"],
        "accuracy, training minus test": trained.final["accuracy"] - test["accuracy"],
    }
    curves = {name: v.reshape(len(RATES), num_seeds) for name, v in curves.items()}
    means = np.stack([values.mean(axis=1) for values in curves.values()])
    folder.table(
        ["rate", *curves],
        [
            [f"{rate:.1f}", *(f"{value:.3f}" for value in row)]
            for rate, row in zip(RATES, means.T, strict=True)
        ],
        title=f"both hidden layers at one rate, mean of {count(num_seeds, 'seed')}",
    )
    num_epochs = len(trained.history["test_loss"])
    best = means[0].argmax()
    with folder.figure(
        "sweep.png",
        columns=3,
        size=(8.5, 2.8),
        title=f"The test accuracy is highest at rate {RATES[best]:.1f}: "
        f"{means[0, best]:.3f}, mean of {count(num_seeds, 'seed')}",
        caption=f"One rate in both hidden layers, {count(num_epochs, 'epoch')}: a "
        "little narrows the gap, much keeps the network from learning.",
        alt="Three line charts against the dropout rate, from 0 to 0.9: test accuracy, "
        "test loss, and the gap between training and test accuracy.",
    ) as panels:
        for axes, (name, values) in zip(panels, curves.items(), strict=True):
            plots.band(axes, RATES, values)
            axes.set(xlabel="dropout rate", ylabel=name)
    return {"rates": RATES, **dict(zip(curves, means, strict=True))}
