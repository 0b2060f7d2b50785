"""Deep perceptrons (D2L 5.4) on both sides."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import torch
from jax import numpy as jnp
from torch import Tensor, nn

from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.deep_mlp import Architecture, apply, init_params
from ch4jax.initialization import Initializer, he_normal, normal, xavier_normal
from experiments.pytorch import twins
from experiments.pytorch.images import classifier, cross_entropy
from experiments.pytorch.systems import Ours, System

HE = he_normal, partial(nn.init.kaiming_normal_, nonlinearity="relu")
XAVIER = xavier_normal, nn.init.xavier_normal_
SMALL = normal(0.01), partial(nn.init.normal_, std=0.01)


class Design(NamedTuple):
    """What tells one deep perceptron from another.

    Attributes:
      architecture: ours.
      activation: that of `architecture` in PyTorch.
      inits: what draws the weights, in JAX and in PyTorch.
      runs: independent runs.
    """

    architecture: Architecture
    activation: Callable[[Tensor], Tensor]
    inits: tuple[Initializer, Callable[[Tensor], Tensor]]
    runs: int = 0


DESIGNS = {
    "tanh, Xavier": Design(Architecture(jnp.tanh), torch.tanh, XAVIER, runs=30),
    "ReLU, He": Design(Architecture(jax.nn.relu), torch.relu, HE),
    "residual": Design(Architecture(jax.nn.relu, residual=True), torch.relu, SMALL),
    "layer norm": Design(
        Architecture(jax.nn.sigmoid, layer_norm=True), torch.sigmoid, XAVIER
    ),
}


def systems(images: FashionMNIST, depth: int = 6, width: int = 64) -> list[System]:
    """Return deep perceptrons; independent runs of one design are enough."""
    sizes = images.train_images[0].size, width, depth, 10

    def system(name: str, design: Design) -> System:
        architecture, activation, (init, fill), runs = design

        def module() -> nn.Module:
            _, residual, layer_norm = architecture
            network = twins.DeepMLP(
                *sizes, activation, residual=residual, layer_norm=layer_norm
            )
            for parameter in network.parameters():
                (fill if parameter.ndim == 2 else nn.init.zeros_)(parameter)
            return network

        ours = Ours(
            lambda key: init_params(*sizes, init, key=key),
            lambda params, x, _: apply(params, x, architecture)[0],
            cross_entropy,
        )
        return classifier(
            f"deep MLP, {name}",
            images,
            ours,
            module,
            learning_rate=0.1,
            batch_size=128,
            runs=runs,
        )

    return [system(*design) for design in DESIGNS.items()]
