"""Blocks: five networks, and a loop in a forward pass (D2L 6.1).

Prints the outputs of each network for two rows of 20 numbers, and measures what the
loop of `FixedHiddenMLP` does to rows over eight orders of magnitude. `docs/text.md`
shows the same blocks in PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import parameters
from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, chimera
from experiments.common import cli
from experiments.common.console import say
from experiments.common.run_folder import RunFolder


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config) -> None:
    """Go through the section, and write the summary."""
    folder = RunFolder.create("blocks", config)
    x_key, init_key = jax.random.split(jax.random.key(config.seed))
    x = jax.random.uniform(x_key, (2, 20))
    say(f"x: uniform on [0, 1), shape {x.shape}")
    facts = show_perceptrons(x, key=init_key)
    facts |= show_fixed_hidden(x, key=init_key)
    y = chimera().init_with_output(init_key, x)[0]
    say(f"chimera, the blocks nested in one another: {y:.4f}")
    facts["chimera"] = y
    agree = "agree" if facts["my_sequential_is_sequential"] else "differ"
    folder.finish(
        facts,
        headline=f"MySequential and nn.Sequential {agree}; the loop keeps values at "
        f"{facts['halvings']['largest_value']:.2f} or below.",
    )


def show_perceptrons(x: Float[Array, "2 20"], *, key: PRNGKeyArray) -> dict[str, Any]:
    """Apply the perceptron 20-256-10 as three kinds of block define it."""
    layers = (nn.Dense(256), nn.relu, nn.Dense(10))
    networks = {
        "nn.Sequential": nn.Sequential(layers),
        "MLP": MLP(),
        "MySequential": MySequential(layers),
    }
    outputs = {}
    for name, network in networks.items():
        # A module holds no parameters: `init` returns them, `apply` takes them.
        outputs[name] = np.asarray(network.apply(network.init(key, x), x))
        say(f"\n{name}: shape {outputs[name].shape}\n{outputs[name].round(4)}")
    # A parameter is drawn from the key and its name, and MLP has names of its own.
    ours = networks["MySequential"].init(key, x)["params"]
    renamed = {"hidden": ours["layers_0"], "out": ours["layers_2"]}
    mlp = np.asarray(MLP().apply({"params": renamed}, x))
    sequential = outputs["nn.Sequential"]
    same_key = np.array_equal(outputs["MySequential"], sequential)
    same_arrays = np.array_equal(mlp, sequential)
    say(f"\nMySequential == nn.Sequential with the same key: {same_key}")
    say(f"MLP == nn.Sequential with the same arrays: {same_arrays}\n")
    return {
        "shapes": {name: y.shape for name, y in outputs.items()},
        "my_sequential_is_sequential": same_key,
        "mlp_is_sequential_with_its_parameters": same_arrays,
    }


def show_fixed_hidden(x: Float[Array, "2 20"], *, key: PRNGKeyArray) -> dict[str, Any]:
    """Apply the block with the constant, the layer used twice, and the loop."""
    y, variables = FixedHiddenMLP().init_with_output(key, x)
    say(f"FixedHiddenMLP: {y:.4f}")
    shapes = {leaf.path: leaf.shape for leaf in parameters.summary(variables)}
    return {
        "fixed_hidden": y,
        "fixed_hidden_arrays": shapes,
        "halvings": measure_halvings(variables, x[0]),
    }


def measure_halvings(variables: PyTree, row: Float[Array, " 20"]) -> dict[str, Any]:
    """Return how value and gradient behave at 400 sizes of a row.

    The batch is the row and its negative: ReLU blocks the gradient of one of them.
    """
    factors = np.logspace(-4, 4, 400, dtype=np.float32)
    pair = np.stack([row, -row])

    @jax.jit
    @jax.vmap
    def value_and_slope(factor: Array) -> tuple[Array, Array]:
        return jax.value_and_grad(FixedHiddenMLP().apply, 1)(variables, factor * pair)

    values, slopes = map(np.asarray, value_and_slope(factors))
    norms = np.linalg.norm(slopes, axis=(1, 2))
    return {
        "largest_value": np.abs(values).max(),
        "all_finite": bool(np.isfinite(values).all() and np.isfinite(slopes).all()),
        "norm_at_1e-4": norms[0],
        "norm_at_1e4": norms[-1],
    }


if __name__ == "__main__":
    cli.main(Config, run)
