"""Deep perceptrons (D2L 5.4) on both sides."""

from functools import partial
from typing import Any

import jax
import torch
from jax import numpy as jnp

from ch4jax import deep_mlp, initialization
from experiments.pytorch import twins
from experiments.pytorch.images import classifier
from experiments.pytorch.systems import System


def systems(images: Any, depth: int = 6, width: int = 64) -> list[System]:
    """Return deep perceptrons from the initialisation room (5.4)."""
    num_inputs = images.train_images[0].size
    he, relu = initialization.he_normal, torch.relu
    designs = {
        "ReLU, He": (deep_mlp.Architecture(jax.nn.relu), he, relu),
        "tanh, Xavier": (
            deep_mlp.Architecture(jnp.tanh),
            initialization.xavier_normal,
            torch.tanh,
        ),
        "residual": (
            deep_mlp.Architecture(jax.nn.relu, residual=True),
            initialization.normal(0.01),
            relu,
        ),
        "layer norm": (
            deep_mlp.Architecture(jax.nn.sigmoid, layer_norm=True),
            initialization.xavier_normal,
            torch.sigmoid,
        ),
    }
    kernels = {
        he: lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
        initialization.xavier_normal: torch.nn.init.xavier_normal_,
    }

    def system(name: str, architecture: Any, kernel_init: Any, activation: Any) -> Any:
        def module() -> torch.nn.Module:
            network = twins.DeepMLP(
                num_inputs,
                width,
                depth,
                10,
                activation,
                residual=architecture.residual,
                layer_norm=architecture.layer_norm,
            )
            draw = kernels.get(kernel_init, partial(torch.nn.init.normal_, std=0.01))
            for parameter in network.parameters():
                draw(parameter) if parameter.ndim == 2 else parameter.data.zero_()
            return network

        def predict(params: Any, x: Any, *, key: Any) -> Any:
            del key
            return deep_mlp.apply(params, x, architecture)[0]

        return classifier(
            f"deep MLP, {name}",
            images,
            init=lambda key: deep_mlp.init_params(
                num_inputs, width, depth, 10, kernel_init, key=key
            ),
            predict=predict,
            module=module,
            learning_rate=0.1,
            batch_size=128,
        )

    found = {name: system(name, *design) for name, design in designs.items()}
    judged = found.pop("tanh, Xavier")  # independent runs of one design are enough
    return [judged, *(one._replace(outcome=None) for one in found.values())]
