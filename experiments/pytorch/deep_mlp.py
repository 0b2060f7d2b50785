"""Deep perceptrons (D2L 5.4) on both sides."""

from collections.abc import Callable
from functools import partial

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


def systems(images: FashionMNIST, depth: int = 6, width: int = 64) -> list[System]:
    """Return deep perceptrons; independent runs of one design are enough."""
    sizes = images.train_images[0].size, width, depth, 10

    def system(
        name: str,
        architecture: Architecture,
        activation: Callable[[Tensor], Tensor],
        inits: tuple[Initializer, Callable[[Tensor], Tensor]],
        runs: int = 0,
    ) -> System:
        init, fill = inits  # in JAX and in PyTorch

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

    normed = Architecture(jax.nn.sigmoid, layer_norm=True)
    return [
        system("tanh, Xavier", Architecture(jnp.tanh), torch.tanh, XAVIER, runs=30),
        system("ReLU, He", Architecture(jax.nn.relu), torch.relu, HE),
        system("residual", Architecture(jax.nn.relu, residual=True), torch.relu, SMALL),
        system("layer norm", normed, torch.sigmoid, XAVIER),
    ]
