"""Parameters: read, re-initialise, set, share and freeze them by path (D2L 6.2).

Goes through the section with the perceptron 4-8-1, four nested blocks, and a layer that
is used twice, and trains while some parameters are frozen. `docs/text.md` shows the
same steps in PyTorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import initialization, parameters
from ch4jax.initialization import torch_bias, torch_kernel
from ch4jax.parameters import RGNet, SharedMLP
from ch4jax.training import Batch, Metrics, TrainState, init_state, train_step
from experiments.common import cli
from experiments.common.console import say
from experiments.common.run_folder import RunFolder

STEPS = 100
FIRST, LAST = "params/layers_0/kernel", "params/layers_2/kernel"
# As PyTorch draws it, the bias too; Flax's own start has a bias of 0.
NETWORK = nn.Sequential(
    (
        nn.Dense(8, kernel_init=torch_kernel, bias_init=torch_bias(4)),
        nn.relu,
        nn.Dense(1, kernel_init=torch_kernel, bias_init=torch_bias(8)),
    )
)
ZEROS = initialization.constant(0.0)
RULES = {
    "normal": {"*/kernel": initialization.normal(0.01), "*/bias": ZEROS},
    "constant": {"*/kernel": initialization.constant(1.0), "*/bias": ZEROS},
    "xavier and 42": {
        FIRST: initialization.xavier_uniform,
        LAST: initialization.constant(42.0),
    },
    "custom": {"*/kernel": initialization.sparse_uniform},
}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; there is nothing to choose but the seed."""


def run(config: Config) -> None:
    """Go through the section and write the summary."""
    folder = RunFolder.create("parameters", config)
    keys = jax.random.split(jax.random.key(config.seed), 6)
    x_key, net_key, nest_key, draw_key, share_key, freeze_key = keys
    x = jax.random.uniform(x_key, (2, 4))
    variables = NETWORK.init(net_key, x)
    facts = show_access(variables, x, folder)
    facts |= show_nested(x, key=nest_key)
    facts["drawn"] = show_drawing(variables, key=draw_key)
    facts |= show_sharing(x, folder, key=share_key)
    facts["moved"] = show_freezing(variables, folder, key=freeze_key)
    folder.finish(
        facts,
        headline=f"One layer used twice: {facts['shared_count']} entries; two copies "
        f"of it would make {facts['untied_count']}.",
    )


def show_access(
    variables: PyTree, x: Float[Array, "2 4"], folder: RunFolder
) -> dict[str, Any]:
    """Read parameters, all and one, and ask for a gradient."""
    y = jnp.asarray(NETWORK.apply(variables, x))
    say(f"nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1))): shape {y.shape}\n{y}\n")
    say(f"parameters of its last layer: {variables['params']['layers_2']}\n")
    bias = parameters.get(variables, "params/layers_2/bias")
    say(
        f"params/layers_2/bias: {bias}, a jax.Array of {bias.dtype}: there is no "
        "Parameter and no .data\n"
    )
    leaves = parameters.summary(variables)
    rows = [[str(value) for value in leaf] for leaf in leaves]
    total = (parameters.count(variables), parameters.num_bytes(variables))
    rows.append(["all", "", "", *map(str, total)])
    folder.table(["path", "shape", "dtype", "entries", "bytes"], rows, num_texts=3)
    # There is no .grad: jax.grad returns the gradients, in a tree like the parameters.
    gradients = jax.grad(lambda v: jnp.asarray(NETWORK.apply(v, x)).sum())(variables)
    slope = gradients["params"]["layers_2"]["bias"]
    say(f"gradient of the sum of the outputs in the last bias: {slope}")
    return {
        "output_shape": y.shape,
        "parameters": {leaf.path: leaf.shape for leaf in leaves},
        "bias": bias,
        "bias_has_grad": hasattr(bias, "grad"),
        "gradient_of_bias": slope,
    }


def show_nested(x: Float[Array, "2 4"], *, key: PRNGKeyArray) -> dict[str, Any]:
    """Print four blocks of two layers."""
    y, variables = RGNet().init_with_output(key, x)
    say(f"\nRGNet: shape {y.shape}\n{y}")
    say(parameters.layout(RGNet(), x))
    return {
        "nested_output_shape": y.shape,
        "nested_count": parameters.count(variables),
        "nested_paths": list(parameters.flatten(variables["params"])),
    }


def show_drawing(variables: PyTree, *, key: PRNGKeyArray) -> dict[str, Any]:
    """Re-initialise parameters by four sets of rules, then set some directly."""
    facts: dict[str, Any] = {}
    keys = jax.random.split(key, len(RULES))
    for rule_key, (name, rules) in zip(keys, RULES.items(), strict=True):
        variables = parameters.reinitialize(variables, rules, key=rule_key)
        facts[name] = arrays = parameters.flatten(variables)
        say(f"\n{name}, for {', '.join(rules)}")
        if name == "custom":  # a rule is called once for each leaf that it matches
            for path, array in arrays.items():
                if path.endswith("kernel"):
                    say(f"Init {path} {array.shape}")
            two = np.asarray(arrays[FIRST])[:, :2].T
            say(f"two units of the first layer:\n{two}")
        for path, array in arrays.items():
            unit_0 = np.asarray(array)[..., 0].round(4)
            say(f"{path} {array.shape}, of unit 0: {unit_0}")
    kernel = parameters.get(variables, FIRST)
    changed = parameters.replace(variables, FIRST, (kernel + 1).at[0, 0].set(42))
    facts["set"] = parameters.get(changed, FIRST)
    facts["as it was"] = kernel
    say(f"\nplus 1, and 42 at [0, 0]: {np.asarray(facts['set'])[:, 0].round(4)}")
    return facts


def shared_networks() -> dict[str, Callable[[PyTree, Array], Array]]:
    """Return three ways to write 4-8-8-8-1 with one layer for the second and third.

    Each is a function `(params, x) -> y` of the parameters of `SharedMLP`.
    """
    shared = nn.Dense(8)
    twice = nn.Sequential(
        (nn.Dense(8), nn.relu, shared, nn.relu, shared, nn.relu, nn.Dense(1))
    )

    def sequential(params: PyTree, x: Array) -> Array:
        names = {"layers_0": "hidden", "layers_2": "shared", "layers_6": "out"}
        given = {layer: params[name] for layer, name in names.items()}
        return jnp.asarray(twice.apply({"params": given}, x))

    def module(params: PyTree, x: Array) -> Array:
        return jnp.asarray(SharedMLP().apply({"params": params}, x))

    def arrays(params: PyTree, x: Array) -> Array:
        for name in ("hidden", "shared", "shared"):
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None, :])
        return x @ params["out"]["kernel"] + params["out"]["bias"][None, :]

    return {
        "one module listed twice": sequential,
        "one module called twice": module,
        "one array used twice": arrays,
    }


def untied(params: PyTree) -> tuple[nn.Sequential, PyTree]:
    """Return the network of `shared_networks` with two layers, and its parameters."""
    network = nn.Sequential(
        (nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(1))
    )
    names = {"layers_0": "hidden", "layers_2": "shared", "layers_4": "shared"}
    given = {layer: params[name] for layer, name in names.items()}
    return network, {"params": given | {"layers_6": params["out"]}}


def show_sharing(
    x: Float[Array, "2 4"], folder: RunFolder, *, key: PRNGKeyArray
) -> dict[str, Any]:
    """Share one layer in three ways, and compare with two copies of it."""
    params = SharedMLP().init(key, x)["params"]
    kernel = parameters.get(params, "shared/kernel").at[0, 0].set(100)
    changed = parameters.replace(params, "shared/kernel", kernel)
    network, copies = untied(params)

    def apply(copies: PyTree) -> Array:
        return jnp.asarray(network.apply(copies, x))

    in_both = apply(untied(changed)[1])
    by_copies = jax.grad(lambda copies: apply(copies).sum())(copies)["params"]
    summed = by_copies["layers_2"]["kernel"] + by_copies["layers_4"]["kernel"]
    facts = {}
    for name, shared in shared_networks().items():
        by_params = jax.grad(lambda p, shared=shared: shared(p, x).sum())(params)
        facts[name] = {
            "in_both": np.allclose(shared(changed, x), in_both, rtol=1e-5),
            "off": np.abs(by_params["shared"]["kernel"] - summed).max(),
        }
    say("\n" + parameters.outline(params, "SharedMLP"))
    shared_count, untied_count = parameters.count(params), parameters.count(copies)
    say(f"{shared_count} entries; two layers of their own would make it {untied_count}")
    folder.table(
        ["shared as", "100 at [0, 0] is in both", "gradient minus sum over copies"],
        [[name, str(f["in_both"]), f"{f['off']:.1e}"] for name, f in facts.items()],
    )
    counts = {"shared_count": shared_count, "untied_count": untied_count}
    return {**counts, "sharing": facts}


def show_freezing(
    variables: PyTree, folder: RunFolder, *, key: PRNGKeyArray
) -> dict[str, dict[str, Array]]:
    """Train with the first layer frozen, with momentum and with decay."""
    x = jax.random.normal(key, (64, 4))
    batch = Batch(x, x.sum(axis=1), jnp.ones(len(x), bool))

    def metrics_fn(
        variables: PyTree, x: Array, target: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        y = jnp.asarray(NETWORK.apply(variables, x))
        return {"loss": optax.l2_loss(y[:, 0], target)}

    def distances(optimizer: optax.GradientTransformation) -> dict[str, Array]:
        optimizer = parameters.freeze(optimizer, variables, ["params/layers_0/*"])

        def step(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return train_step(
                state, batch, metrics_fn=metrics_fn, optimizer=optimizer, key=key
            )

        state = init_state(variables, optimizer)
        state, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=STEPS))(state)
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, variables)
        return parameters.flatten(moved)

    with_l2 = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))
    moved = {
        "SGD with momentum": distances(optax.sgd(0.01, momentum=0.9)),
        "Adam with L2": distances(with_l2),
    }
    folder.table(
        ["largest change of an entry", *moved],
        [
            [path, *(f"{distance[path]:.4f}" for distance in moved.values())]
            for path in parameters.flatten(variables)
        ],
        title=f"{STEPS} steps with params/layers_0/* frozen",
    )
    return moved


if __name__ == "__main__":
    cli.main(Config, run)
