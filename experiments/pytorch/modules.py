"""Blocks, shared layers and custom layers (D2L 6.1, 6.2, 6.4) on both sides."""

from typing import Any

import jax
import numpy as np
import torch
from flax import linen as nn
from jax import numpy as jnp

from ch4jax import blocks, layers, parameters
from experiments.pytorch import twins
from experiments.pytorch.images import classifier
from experiments.pytorch.systems import System, sgd, torch_start


def systems(images: Any) -> list[System]:
    """Return blocks, shared layers and custom layers (6.1, 6.2, 6.4).

    All are trained on made-up numbers; NestMLP learns the images too.
    """
    rng = np.random.default_rng(0)
    mlp, stack = blocks.MLP(32, 12), blocks.MySequential((blocks.MLP(32, 12),))
    designs = [
        ("MLP", mlp, lambda: twins.MLP(20, 32, 12), 20, None),
        (
            "MySequential",
            stack,
            lambda: twins.MySequential(twins.MLP(20, 32, 12)),
            20,
            None,
        ),
        ("FixedHiddenMLP", blocks.FixedHiddenMLP(), twins.FixedHiddenMLP, 20, None),
        ("NestMLP", blocks.NestMLP(), twins.NestMLP, 20, None),
        ("chimera", blocks.chimera(), twins.chimera, 20, None),
        ("RGNet", parameters.RGNet(), twins.RGNet, 4, twins.RGNet.names),
        (
            "SharedMLP",
            parameters.SharedMLP(),
            twins.SharedMLP,
            4,
            twins.SharedMLP.names,
        ),
        ("MyLinear", layers.MyLinear(5, 3), lambda: twins.MyLinear(5, 3), 5, None),
    ]
    systems = []
    for name, model, module, width, names in designs:
        system = module_system(name, model, module, rng.normal(size=(64, width)), names)
        systems.append(system)
    return [*systems, nested_classifier(images)]


def module_system(
    name: str, model: nn.Module, module: Any, inputs: Any, names: Any
) -> System:
    """Return a module that learns the sums of its inputs."""
    with jax.enable_x64(False):
        drawn = jax.jit(model.init)(
            jax.random.key(1), jnp.asarray(inputs[:1], jnp.float32)
        )
    constants = {"constants": drawn["constants"]} if "constants" in drawn else {}
    constants = jax.tree.map(np.asarray, constants)

    def with_constants() -> torch.nn.Module:
        network = module()
        for path, value in parameters.flatten(constants).items():
            *_, buffer = path.split("/")
            for owner in network.modules():
                if buffer in owner._buffers:
                    getattr(owner, buffer).copy_(torch.tensor(value))
        return network

    def predict(params: Any, x: Any, *, key: Any) -> Any:
        del key
        return model.apply({**params, **constants}, x)

    def row_losses(_: Any, outputs: Any, labels: Any) -> Any:
        residuals = outputs.reshape(-1, outputs.shape[-1]) if outputs.ndim else outputs
        errors = jnp.square(residuals - labels[:, None])
        return errors.mean(axis=-1)

    def loss(_: Any, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs - labels[:, None]).square().mean()

    return System(
        name,
        data=(inputs, inputs.sum(axis=1)),
        init=lambda key: torch_start({"params": drawn["params"]}, key=key),
        predict=predict,
        row_losses=row_losses,
        module=with_constants,
        loss=loss,
        optimizers={"SGD": sgd(0.01)},
        epochs=10,
        batch_size=32 if constants else 24,  # a sum over the batch sees padding
        names=names,
    )


def nested_classifier(images: Any) -> System:
    """Return NestMLP as a classifier of images; six of its outputs have no class."""
    num_inputs = images.train_images[0].size
    model = blocks.NestMLP()
    with jax.enable_x64(False):
        shapes = jax.eval_shape(
            model.init, jax.random.key(0), jnp.zeros((1, num_inputs), jnp.float32)
        )

    def predict(params: Any, x: Any, *, key: Any) -> Any:
        del key
        return model.apply(params, x)

    return classifier(
        "NestMLP, images",
        images,
        init=lambda key: torch_start(shapes, key=key),
        predict=predict,
        module=lambda: twins.NestMLP(num_inputs),
        learning_rate=0.2,
        batch_size=64,
    )
