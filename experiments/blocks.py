"""Blocks: five networks, and a loop in a forward pass (D2L 6.1).

Prints what each network makes of two rows of 20 numbers, and draws what the loop of
`FixedHiddenMLP` does to rows over eight orders of magnitude.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ch4jax import parameters
from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, chimera
from experiments.common import cli, plots
from experiments.common.console import Report


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config, report: Report) -> None:
    """Go through the section, draw the loop, and write the summary."""
    report.begin(config)
    x_key, init_key = jax.random.split(jax.random.key(config.seed))
    x = jax.random.uniform(x_key, (2, 20))
    report.say(f"x: uniform on [0, 1), shape {x.shape}")
    facts = show_perceptrons(x, report, key=init_key)
    facts |= show_fixed_hidden(x, report, key=init_key)
    facts |= show_chimera(x, report, key=init_key)
    report.finish({"seconds": report.seconds(), **facts})


def show_perceptrons(x: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Apply the perceptron 20-256-10 as three kinds of block define it."""
    layers = (nn.Dense(256), nn.relu, nn.Dense(10))
    networks = {
        "nn.Sequential": nn.Sequential(layers),
        "MLP": MLP(),
        "MySequential": MySequential(layers),
    }
    outputs: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    for name, network in networks.items():
        variables[name] = network.init(key, x)
        outputs[name] = network.apply(variables[name], x)
        report.say(f"\n{name}: shape {outputs[name].shape}")
        report.say(str(np.asarray(outputs[name]).round(4)))
    # A parameter is drawn from the key and its name, and MLP has names of its own.
    ours = variables["MySequential"]["params"]
    given = {"params": {"hidden": ours["layers_0"], "out": ours["layers_2"]}}
    y: Any = MLP().apply(given, x)
    facts = {
        "shapes": {name: y.shape for name, y in outputs.items()},
        "my_sequential_is_sequential": np.array_equal(
            outputs["MySequential"], outputs["nn.Sequential"]
        ),
        "mlp_is_sequential_with_its_parameters": np.array_equal(
            y, outputs["nn.Sequential"]
        ),
    }
    report.say(
        "\nMySequential == nn.Sequential with the same key: "
        f"{facts['my_sequential_is_sequential']}\n"
        "MLP == nn.Sequential with the same arrays: "
        f"{facts['mlp_is_sequential_with_its_parameters']}\n"
        "in JAX: a module holds no parameters; init(key, x) returns them and "
        "apply(variables, x) takes\nthem, so both are pure functions"
    )
    return facts


def show_fixed_hidden(x: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Apply the block with the constant, the layer used twice, and the loop."""
    network = FixedHiddenMLP()
    y, variables = network.init_with_output(key, x)
    report.say(f"\nFixedHiddenMLP: {y:.4f}")
    report.say(parameters.outline(variables, "FixedHiddenMLP"))
    report.say(
        "in JAX: the constant is a collection of its own, so no optimiser sees it; the "
        "loop counts the\nhalvings of a stopped gradient, since a while loop has no "
        "reverse derivative"
    )
    shapes = {leaf.path: leaf.shape for leaf in parameters.summary(variables)}
    return {
        "fixed_hidden": float(y),
        "fixed_hidden_arrays": shapes,
        "halvings": draw_halvings(network, variables, x[0], report),
    }


def draw_halvings(
    network: Any, variables: Any, row: Any, report: Report
) -> dict[str, Any]:
    """Draw value and gradient at 400 sizes of a row, each with its own halvings.

    Its negative stands beside it, since ReLU passes nothing of one of the two.
    """
    factors = np.logspace(-4, 4, 400, dtype=np.float32)
    pair = np.stack([row, -row])

    @jax.jit
    @jax.vmap
    def value_and_slope(factor: Any) -> Any:
        return jax.value_and_grad(network.apply, 1)(variables, factor * pair)

    values, slopes = map(np.asarray, value_and_slope(factors))
    norms = np.linalg.norm(slopes, axis=(1, 2))
    path = report.folder / "halvings.png"
    title = "FixedHiddenMLP of a row and its negative: a jump is one more halving"
    with plots.figure(path, 1, 2, size=(8.5, 3.2), title=title) as (left, right):
        left.plot(factors, values)
        left.set(ylabel="value")
        right.plot(factors, norms)
        right.set(yscale="log", ylabel="norm of the gradient")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="factor on the rows")
    return {
        "largest_value": np.abs(values).max(),
        "all_finite": bool(np.isfinite(values).all() and np.isfinite(slopes).all()),
        "norm_at_1e-4": norms[0],
        "norm_at_1e4": norms[-1],
    }


def show_chimera(x: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Apply the blocks nested in one another."""
    y, variables = chimera().init_with_output(key, x)
    report.say(f"\nchimera: {y:.4f}")
    report.say(parameters.outline(variables, "chimera"))
    report.say(
        "in JAX: nested blocks are nested dictionaries; ReLU, a function, is in none"
    )
    return {"chimera": float(y)}


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
