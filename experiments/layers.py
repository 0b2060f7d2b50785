"""Custom layers, without and with parameters, and proof that they learn (D2L 6.5).

Prints the output of each layer for a small input, alone and in a larger network, and
trains a network of both, as they are here and as the book's code reads.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ch4jax.layers import CenteredLayer, MyLinear
from ch4jax.training import Batch, Metrics, TrainState, init_state, train_step
from experiments.common import cli
from experiments.common.console import say
from experiments.common.run_folder import RunFolder

STEPS = 300
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config) -> None:
    """Go through the section, train, draw, and write the summary."""
    folder = RunFolder.create("layers", config)
    keys = jax.random.split(jax.random.key(config.seed), 3)
    facts = show_centered(key=keys[0])
    facts |= show_linear(key=keys[1])
    facts |= show_learning(folder, key=keys[2])
    learnt, stopped = facts["last_losses"]
    folder.finish(
        facts,
        headline=f"The loss ends at {learnt:.3f} if MyLinear learns, at {stopped:.3f} "
        "if its gradient is stopped.",
    )


def show_centered(*, key: PRNGKeyArray) -> dict[str, Any]:
    """Apply the layer without parameters, alone and after a dense layer."""
    y = CenteredLayer().apply({}, jnp.arange(1.0, 6.0))
    init_key, x_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (4, 8))
    network = nn.Sequential((nn.Dense(128), CenteredLayer()))
    outputs, variables = network.init_with_output(init_key, x)
    mean = outputs.mean()
    say(f"CenteredLayer of 1, 2, 3, 4, 5: {y}")
    say(f"CenteredLayer after nn.Dense(128), of {x.shape}: mean {mean:.3g}")
    return {
        "centered": y,
        "mean_after_centering": mean,
        "layers_with_parameters": list(variables["params"]),
    }


def show_linear(*, key: PRNGKeyArray) -> dict[str, Any]:
    """Apply the layer with parameters, alone and twice in a row."""
    init_key, x_key, net_key, net_x_key = jax.random.split(key, 4)
    x = jax.random.uniform(x_key, (2, 5))
    y, variables = MyLinear(5, 3).init_with_output(init_key, x)
    weight = jnp.asarray(variables["params"]["weight"])
    network = nn.Sequential((MyLinear(64, 8), MyLinear(8, 1)))
    x = jax.random.uniform(net_x_key, (2, 64))
    outputs, _ = network.init_with_output(net_key, x)
    for name, array in {
        "weight of MyLinear(5, 3)": weight,
        "MyLinear(5, 3) of two rows": y,
        "MyLinear(64, 8), then MyLinear(8, 1), of two rows": outputs,
    }.items():
        say(f"\n{name}: shape {array.shape}\n{np.asarray(array).round(4)}")
    return {
        "weight_shape": weight.shape,
        "linear": y,
        "network_shape": outputs.shape,
        "network": outputs,
    }


def show_learning(folder: RunFolder, *, key: PRNGKeyArray) -> dict[str, Any]:
    """Train MyLinear(64, 8), CenteredLayer(), Dense(1) to return ReLU of a sum.

    The book's layer reads `weight.data`, which in PyTorch stops the gradient, so that
    only the dense layer learns. Both ways go through one program.
    """
    init_key, x_key, step_key = jax.random.split(key, 3)
    network = nn.Sequential((MyLinear(64, 8), CenteredLayer(), nn.Dense(1)))
    x = jax.random.normal(x_key, (256, 64))
    batch = Batch(x, jax.nn.relu(x.sum(axis=1)), jnp.ones(len(x), bool))
    start = network.init(init_key, x)["params"]
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    @jax.vmap
    def train(stopped: Bool[Array, ""]) -> tuple[Array, Array]:
        def metrics_fn(
            params: PyTree, x: Array, target: Array, *, key: PRNGKeyArray | None
        ) -> Metrics:
            given = jax.tree.map(
                lambda p: jnp.where(stopped, jax.lax.stop_gradient(p), p),
                params["layers_0"],
            )
            variables = {"params": params | {"layers_0": given}}
            y = jnp.asarray(network.apply(variables, x))
            return {"loss": optax.l2_loss(y[:, 0], target)}

        def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return train_step(
                state, batch, metrics_fn=metrics_fn, optimizer=optimizer, key=step_key
            )

        state, sums = jax.lax.scan(step, init_state(start, optimizer), length=STEPS)
        moved = state.params["layers_0"]["weight"] - start["layers_0"]["weight"]
        return sums["loss"] / len(x), jnp.abs(moved).max()

    losses, moved = map(np.asarray, train(jnp.array([False, True])))
    names = ("parameters as an argument", "gradient stopped, as .data does")
    title = "MyLinear(64, 8), CenteredLayer(), Dense(1) learning ReLU of a sum"
    folder.table(
        ["MyLinear", "first loss", "last loss", "largest change of a weight"],
        [
            [name, f"{curve[0]:.3f}", f"{curve[-1]:.3f}", f"{change:.4f}"]
            for name, curve, change in zip(names, losses, moved, strict=True)
        ],
        title=f"{title}, {STEPS} steps",
    )
    with folder.figure(
        "learning.png",
        size=(8.5, 3.2),
        title="A layer that reads its weights through .data never learns them",
        caption=f"{title}.",
        alt="Line chart of half the squared error against the step, one line for the "
        "layer whose weights are trained and one for the layer whose gradient is "
        "stopped.",
    ) as axes:
        for name, curve, dashes in zip(names, losses, ("-", "--"), strict=True):
            axes.plot(curve, dashes, label=f"MyLinear: {name}")
        axes.set(xlabel="step", ylabel="half squared error", ylim=(0, None))
        axes.legend()
    return {
        "first_losses": losses[:, 0],
        "last_losses": losses[:, -1],
        "largest_changes": moved,
    }


if __name__ == "__main__":
    cli.main(Config, run)
