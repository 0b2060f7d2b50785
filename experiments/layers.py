"""Custom layers, without and with parameters, and proof that they learn (D2L 6.4).

Prints what each layer makes of a small input, alone and inside a larger network, and
trains a network of both, as they are here and as the book's code reads.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import numpy as jnp

from ch4jax.layers import CenteredLayer, MyLinear
from ch4jax.training import Batch, init_state, train_step
from experiments.common import cli, plots
from experiments.common.console import Report

STEPS = 300
LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config, report: Report) -> None:
    """Go through the section, train, draw, and write the summary."""
    report.begin(config)
    centred_key, linear_key, train_key = jax.random.split(
        jax.random.key(config.seed), 3
    )
    facts = show_centered(report, key=centred_key)
    facts |= show_linear(report, key=linear_key)
    facts |= show_learning(report, key=train_key)
    report.finish({"seconds": report.seconds(), **facts})


def show_centered(report: Report, *, key: Any) -> dict[str, Any]:
    """Apply the layer without parameters, alone and after a dense layer."""
    y = CenteredLayer().apply({}, jnp.arange(1.0, 6.0))
    init_key, x_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (4, 8))
    network = nn.Sequential((nn.Dense(128), CenteredLayer()))
    outputs, variables = network.init_with_output(init_key, x)
    mean = float(outputs.mean())
    report.say(
        f"CenteredLayer of 1, 2, 3, 4, 5: {y}\n"
        f"nn.Sequential((nn.Dense(128), CenteredLayer())): shape {outputs.shape}, "
        f"mean {mean:.3g}\n"
        "in JAX: a layer without parameters is applied to an empty dictionary, and is "
        "not in the\nparameters of the network it stands in"
    )
    return {
        "centered": y,
        "mean_after_centering": mean,
        "layers_with_parameters": list(variables["params"]),
    }


def show_linear(report: Report, *, key: Any) -> dict[str, Any]:
    """Apply the layer with parameters, alone and twice in a row."""
    init_key, x_key, net_key, net_x_key = jax.random.split(key, 4)
    x = jax.random.uniform(x_key, (2, 5))
    y, variables = MyLinear(5, 3).init_with_output(init_key, x)
    weight = np.asarray(variables["params"]["weight"])
    network = nn.Sequential((MyLinear(64, 8), MyLinear(8, 1)))
    x = jax.random.uniform(net_x_key, (2, 64))
    outputs, _ = network.init_with_output(net_key, x)
    report.say(f"\nMyLinear(5, 3): weight of shape {weight.shape}\n{weight.round(4)}")
    report.say(f"of two rows: shape {y.shape}\n{np.asarray(y).round(4)}")
    report.say(f"MyLinear(64, 8), then MyLinear(8, 1): shape {outputs.shape}")
    report.say(str(np.asarray(outputs).round(4)))
    report.say(
        "in JAX: weights are (in, out), as in the book's layer; PyTorch's own Linear "
        "keeps (out, in)"
    )
    return {
        "weight_shape": weight.shape,
        "linear": y,
        "network_shape": outputs.shape,
        "network": outputs,
    }


def show_learning(report: Report, *, key: Any) -> dict[str, Any]:
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
    def train(stopped: Any) -> Any:
        def metrics(params: Any, x: Any, target: Any, *, key: Any) -> Any:
            given = jax.tree.map(
                lambda p: jnp.where(stopped, jax.lax.stop_gradient(p), p),
                params["layers_0"],
            )
            y: Any = network.apply({"params": params | {"layers_0": given}}, x)
            return {"loss": optax.l2_loss(y[:, 0], target)}

        def step(state: Any, _: None) -> Any:
            return train_step(
                state, batch, metrics_fn=metrics, optimizer=optimizer, key=step_key
            )

        state, sums = jax.lax.scan(step, init_state(start, optimizer), length=STEPS)
        moved = state.params["layers_0"]["weight"] - start["layers_0"]["weight"]
        return sums["loss"] / len(x), jnp.abs(moved).max()

    curves, moved = map(np.asarray, train(np.array([False, True])))
    names = ("parameters as an argument", "gradient stopped, as .data does")
    report.say(f"\n{STEPS} steps of MyLinear(64, 8), CenteredLayer(), Dense(1)")
    report.table(
        ["MyLinear", "first loss", "last loss", "largest change of a weight"],
        [
            [name, f"{curve[0]:.3f}", f"{curve[-1]:.3f}", f"{change:.4f}"]
            for name, curve, change in zip(names, curves, moved, strict=True)
        ],
    )
    report.say(
        "in JAX: there is no .data to read by mistake; parameters are an argument, and "
        "the gradient is\nasked for by that argument"
    )
    title = "MyLinear(64, 8), CenteredLayer(), Dense(1) learning ReLU of a sum"
    path = report.folder / "learning.png"
    with plots.figure(path, size=(8.5, 3.2), title=title) as axes:
        for name, curve, dashes in zip(names, curves, ("-", "--"), strict=True):
            axes.plot(curve, dashes, label=f"MyLinear: {name}")
        axes.set(xlabel="step", ylabel="half squared error", ylim=(0, None))
        axes.legend()
    return {
        "first_losses": curves[:, 0],
        "last_losses": curves[:, -1],
        "largest_changes": moved,
    }


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
