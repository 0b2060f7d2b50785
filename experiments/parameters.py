"""Parameters: read, draw anew, set, share and freeze them by path (D2L 6.2).

Goes through the section with the perceptron 4-8-1, four nested blocks, and a layer that
is used twice, and trains while some parameters are frozen.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import numpy as jnp

from ch4jax import initialization, parameters
from ch4jax.parameters import RGNet, SharedMLP
from ch4jax.training import Batch, init_state, train_step
from experiments.common import cli
from experiments.common.console import Report

STEPS = 100


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config, report: Report) -> None:
    """Go through the section and write the summary."""
    report.begin(config)
    x_key, net_key, nest_key, draw_key, share_key, freeze_key = jax.random.split(
        jax.random.key(config.seed), 6
    )
    x = jax.random.uniform(x_key, (2, 4))
    network = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
    variables = network.init(net_key, x)
    facts = show_access(network, variables, x, report)
    facts |= show_nested(x, report, key=nest_key)
    facts |= show_drawing(variables, report, key=draw_key)
    facts |= show_sharing(x, report, key=share_key)
    facts |= show_freezing(network, variables, report, key=freeze_key)
    report.finish({"seconds": report.seconds(), **facts})


def show_access(network: Any, variables: Any, x: Any, report: Report) -> dict[str, Any]:
    """Read parameters, all and one, and ask for a gradient."""
    y = network.apply(variables, x)
    report.say(f"nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1))): shape {y.shape}")
    report.say(f"{y}\n")
    report.say(f"parameters of its last layer: {variables['params']['layers_2']}\n")
    bias = parameters.get(variables, "params/layers_2/bias")
    report.say(f"params/layers_2/bias: {bias}, {type(bias).__name__} of {bias.dtype}\n")
    show_table(variables, report)
    report.say(
        "in JAX: parameters are arrays in a dictionary, kernels (in, out); PyTorch's "
        "are (out, in)\n"
    )
    gradients = jax.grad(lambda v: network.apply(v, x).sum())(variables)
    report.say(f"gradient by the last bias: {gradients['params']['layers_2']['bias']}")
    report.say(
        "in JAX: there is no .grad, since arrays record nothing; jax.grad turns a "
        "function into the one that\nreturns its gradients, in a tree like that of the "
        "parameters"
    )
    leaves = parameters.summary(variables)
    return {
        "output_shape": y.shape,
        "parameters": {leaf.path: leaf.shape for leaf in leaves},
        "bias": bias,
        "bias_has_grad": hasattr(bias, "grad"),
        "gradient_of_bias": gradients["params"]["layers_2"]["bias"],
    }


def show_table(variables: Any, report: Report) -> None:
    """Print a line for each parameter, and their sum."""
    rows = [
        [leaf.path, str(leaf.shape), leaf.dtype, str(leaf.entries), str(leaf.num_bytes)]
        for leaf in parameters.summary(variables)
    ]
    total, size = parameters.count(variables), parameters.num_bytes(variables)
    rows.append(["all", "", "", str(total), str(size)])
    report.table(["path", "shape", "dtype", "entries", "bytes"], rows)


def show_nested(x: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Print the tree of four blocks of two layers."""
    y, variables = RGNet().init_with_output(key, x)
    report.say(f"\nRGNet: shape {y.shape}\n{y}")
    report.say(parameters.outline(variables["params"], "RGNet"))
    report.say(
        "in JAX: the tree has the arrays and their places; what is computed stands in "
        "the module"
    )
    return {
        "nested_output_shape": y.shape,
        "nested_count": parameters.count(variables),
        "nested_paths": list(parameters.flatten(variables["params"])),
    }


def show_drawing(variables: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Draw parameters anew by four sets of rules, then set some directly."""
    first, last = "params/layers_0/kernel", "params/layers_2/kernel"
    zeros = initialization.constant(0.0)
    all_rules = {
        "normal": {"*/kernel": initialization.normal(0.01), "*/bias": zeros},
        "constant": {"*/kernel": initialization.constant(1.0), "*/bias": zeros},
        "xavier and 42": {
            first: initialization.xavier_uniform,
            last: initialization.constant(42.0),
        },
        "custom": {"*/kernel": initialization.sparse_uniform},
    }
    facts: dict[str, Any] = {}
    keys = jax.random.split(key, len(all_rules))
    for rule_key, (name, rules) in zip(keys, all_rules.items(), strict=True):
        variables = parameters.reinitialize(variables, rules, key=rule_key)
        facts[name] = parameters.flatten(variables)
        report.say(f"\n{name}, for {', '.join(rules)}")
        for path in (first, last):
            kernel = np.asarray(facts[name][path])
            report.say(f"{path} {kernel.shape}, into unit 0: {kernel[:, 0].round(4)}")
    report.say(
        "in JAX: a rule gives paths an initialiser, and a new tree comes back; the old "
        "one is as it was"
    )
    kernel = parameters.get(variables, first)
    changed = parameters.replace(variables, first, (kernel + 1).at[0, 0].set(42))
    facts["set"] = parameters.get(changed, first)
    facts["as it was"] = parameters.get(variables, first)
    report.say(f"\nplus 1, and 42 at [0, 0]: {np.asarray(facts['set'])[:, 0].round(4)}")
    report.say(
        "in JAX: arrays are never written to; x.at[0, 0].set(42) is a new one, and "
        "replace returns a tree\nthat has it"
    )
    return {"drawn": facts}


def shared_networks() -> dict[str, Any]:
    """Return three ways to write 4-8-8-8-1 with one layer for the second and third.

    Each is a function `(params, x) -> y` of the parameters of `SharedMLP`.
    """
    shared = nn.Dense(8)
    twice = nn.Sequential(
        (nn.Dense(8), nn.relu, shared, nn.relu, shared, nn.relu, nn.Dense(1))
    )
    names = {"layers_0": "hidden", "layers_2": "shared", "layers_6": "out"}

    def sequential(params: Any, x: Any) -> Any:
        given = {layer: params[name] for layer, name in names.items()}
        return twice.apply({"params": given}, x)

    def module(params: Any, x: Any) -> Any:
        return SharedMLP().apply({"params": params}, x)

    def arrays(params: Any, x: Any) -> Any:
        for name in ("hidden", "shared", "shared"):
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None, :])
        return x @ params["out"]["kernel"] + params["out"]["bias"][None, :]

    return {
        "one module listed twice": sequential,
        "one module called twice": module,
        "one array used twice": arrays,
    }


def untied(params: Any) -> tuple[Any, Any]:
    """Return the network of `shared_networks` with two layers, and its parameters."""
    network = nn.Sequential(
        (nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(1))
    )
    names = {"layers_0": "hidden", "layers_2": "shared", "layers_4": "shared"}
    given = {layer: params[name] for layer, name in names.items()}
    return network, {"params": given | {"layers_6": params["out"]}}


def show_sharing(x: Any, report: Report, *, key: Any) -> dict[str, Any]:
    """Share one layer in three ways, and compare with two copies of it."""
    params: Any = SharedMLP().init(key, x)["params"]
    kernel = params["shared"]["kernel"]
    changed = parameters.replace(params, "shared/kernel", kernel.at[0, 0].set(100))
    network, copies = untied(params)
    in_both = network.apply(untied(changed)[1], x)
    by_copies = jax.grad(lambda v: network.apply(v, x).sum())(copies)["params"]
    summed = by_copies["layers_2"]["kernel"] + by_copies["layers_4"]["kernel"]
    facts = {}
    for name, shared in shared_networks().items():
        by_params = jax.grad(lambda p, shared=shared: shared(p, x).sum())(params)
        facts[name] = {
            "in_both": np.allclose(shared(changed, x), in_both, rtol=1e-5),
            "off": np.abs(by_params["shared"]["kernel"] - summed).max(),
        }
    report.say("\n" + parameters.outline(params, "SharedMLP"))
    report.say(
        f"{parameters.count(params)} entries; two layers of their own would make it "
        f"{parameters.count(copies)}"
    )
    report.table(
        ["shared as", "100 at [0, 0] is in both", "gradient minus sum over copies"],
        [[name, str(f["in_both"]), f"{f['off']:.1e}"] for name, f in facts.items()],
    )
    report.say(
        "in JAX: a shared layer is one entry of the tree, however often it is used, so "
        "nothing is tied"
    )
    return {
        "shared_count": parameters.count(params),
        "untied_count": parameters.count(copies),
        "sharing": facts,
    }


def show_freezing(
    network: Any, variables: Any, report: Report, *, key: Any
) -> dict[str, Any]:
    """Train with the first layer frozen, with momentum and with decay."""
    x = jax.random.normal(key, (64, 4))
    batch = Batch(x, x.sum(axis=1), jnp.ones(len(x), bool))

    def metrics(variables: Any, x: Any, target: Any, *, key: Any) -> Any:
        return {"loss": optax.l2_loss(network.apply(variables, x)[:, 0], target)}

    def distances(optimizer: optax.GradientTransformation) -> dict[str, Any]:
        optimizer = parameters.freeze(optimizer, variables, ["params/layers_0/*"])

        def step(state: Any, _: None) -> Any:
            return train_step(
                state, batch, metrics_fn=metrics, optimizer=optimizer, key=key
            )

        state = init_state(variables, optimizer)
        state, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=STEPS))(state)
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, variables)
        return parameters.flatten(moved)

    moved = {
        "SGD with momentum": distances(optax.sgd(0.01, momentum=0.9)),
        "Adam with L2": distances(
            optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))
        ),
    }
    report.say(f"\n{STEPS} steps with params/layers_0/* frozen")
    report.table(
        ["largest change of an entry", *moved],
        [
            [path, *(f"{distance[path]:.4f}" for distance in moved.values())]
            for path in parameters.flatten(variables)
        ],
    )
    report.say(
        "in JAX: an array has no requires_grad; the optimiser is told which paths it "
        "leaves alone"
    )
    return {"moved": moved}


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
