"""Blocks, shared layers and custom layers (D2L 6.1, 6.2, 6.4) on both sides."""

from collections.abc import Callable

import jax
import numpy as np
import torch
from flax import linen
from jax import numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree
from torch import nn

from ch4jax import blocks, layers, parameters
from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.pytorch import twins
from experiments.pytorch.images import classifier, cross_entropy
from experiments.pytorch.systems import Ours, System, Theirs, sgd, torch_start


def regression(
    name: str, model: linen.Module, twin: Callable[[], nn.Module], inputs: np.ndarray
) -> System:
    """Return a module and its twin, which learn the sums of these inputs."""
    with jax.enable_x64(False):
        row = jnp.asarray(inputs[:1], jnp.float32)
        drawn = jax.jit(model.init)(jax.random.key(1), row)
    constants = {name: drawn[name] for name in drawn if name == "constants"}
    constants = jax.tree.map(np.asarray, constants)

    def init(key: PRNGKeyArray) -> PyTree:
        return torch_start({"params": drawn["params"]}, key=key)

    def predict(params: PyTree, x: Array, _: PRNGKeyArray | None) -> Array:
        return jnp.asarray(model.apply({**params, **constants}, x))

    def row_losses(_: PyTree, outputs: Array, labels: Array) -> Array:
        return jnp.square(outputs - labels[:, None]).mean(axis=-1)

    def with_constants() -> nn.Module:
        network = twin()
        values = jax.tree.leaves(constants)
        for buffer, value in zip(network.buffers(), values, strict=True):
            buffer.copy_(torch.tensor(value))
        return network

    return System(
        name,
        (inputs, inputs.sum(axis=1)),
        Ours(init, predict, row_losses),
        Theirs(with_constants, lambda _, y, sums: (y - sums[:, None]).square().mean()),
        {"SGD": sgd(0.01)},
        epochs=10,
        batch_size=32 if constants else 24,  # a sum over the batch sees padding
    )


def nested_classifier(images: FashionMNIST) -> System:
    """Return NestMLP as a classifier of images; six of its outputs have no class."""
    model = blocks.NestMLP()
    row = jax.ShapeDtypeStruct((1, 784), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), row)
    ours = Ours(
        lambda key: torch_start(shapes, key=key),
        lambda params, x, _: jnp.asarray(model.apply(params, x)),
        cross_entropy,
    )
    return classifier(
        "NestMLP, images",
        images,
        ours,
        lambda: twins.NestMLP(784),
        learning_rate=0.2,
        batch_size=64,
        runs=30,
    )


def systems(images: FashionMNIST) -> list[System]:
    """Return modules that learn made-up numbers, and NestMLP on the images."""
    rng = np.random.default_rng(0)
    mlp = blocks.MLP(32, 12)
    stack = blocks.MySequential((mlp,))
    designs = (
        ("MLP", mlp, lambda: twins.MLP(20, 32, 12), 20),
        ("MySequential", stack, lambda: nn.Sequential(twins.MLP(20, 32, 12)), 20),
        ("FixedHiddenMLP", blocks.FixedHiddenMLP(), twins.FixedHiddenMLP, 20),
        ("NestMLP", blocks.NestMLP(), twins.NestMLP, 20),
        ("chimera", blocks.chimera(), twins.chimera, 20),
        ("RGNet", parameters.RGNet(), twins.RGNet, 4),
        ("SharedMLP", parameters.SharedMLP(), twins.SharedMLP, 4),
        ("MyLinear", layers.MyLinear(5, 3), lambda: twins.MyLinear(5, 3), 5),
    )
    return [
        *(
            regression(name, model, twin, rng.normal(size=(64, width)))
            for name, model, twin, width in designs
        ),
        nested_classifier(images),
    ]
