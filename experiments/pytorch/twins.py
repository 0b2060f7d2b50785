"""The networks of the package as a PyTorch user writes them, for comparison.

Constructors take sizes and nothing else; `ch4jax.interop` carries parameters over.
Where it has to be told which layer is which, the class has the `names` to pass.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn


def perceptron(
    hidden: Sequence[int] = (256, 256),
    rates: Sequence[float] = (0.2, 0.5),
    *,
    num_inputs: int = 784,
) -> nn.Sequential:
    """Return the perceptron of `ch4jax.dropout`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width, rate in zip(hidden, rates, strict=True):
        layers += [nn.Linear(num_inputs, width), nn.ReLU(), nn.Dropout(rate)]
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, 10))


def init_normal(network: nn.Module, std: float = 0.01) -> nn.Module:
    """Draw the weights of every Linear from N(0, `std`²), as the book does it.

    The biases keep PyTorch's default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    return network


class MLP(nn.Module):
    """Twin of `ch4jax.blocks.MLP`."""

    def __init__(
        self, num_inputs: int = 20, num_hidden: int = 256, num_outputs: int = 10
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_inputs, num_hidden)
        self.out = nn.Linear(num_hidden, num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the second layer."""
        return self.out(torch.relu(self.hidden(x)))


class FixedHiddenMLP(nn.Module):
    """Twin of `ch4jax.blocks.FixedHiddenMLP`; the constant is a buffer."""

    rand_weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rand_weight", torch.rand(20, 20))
        self.linear = nn.Linear(20, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the outputs, halved until their sizes sum to at most 1."""
        x = self.linear(x)
        x = torch.relu(x @ self.rand_weight + 1)
        x = self.linear(x)
        while x.abs().sum() > 1:
            x /= 2
        return x.sum()


class NestMLP(nn.Module):
    """Twin of `ch4jax.blocks.NestMLP`."""

    def __init__(self, num_inputs: int = 20) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()
        )
        self.linear = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the last layer."""
        return self.linear(self.net(x))


def chimera() -> nn.Sequential:
    """Return the twin of `ch4jax.blocks.chimera`."""
    return nn.Sequential(NestMLP(), nn.Linear(16, 20), FixedHiddenMLP())


class CenteredLayer(nn.Module):
    """Twin of `ch4jax.layers.CenteredLayer`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` moved to mean zero."""
        return x - x.mean()


class MyLinear(nn.Module):
    """Twin of `ch4jax.layers.MyLinear`; `weight` has the shape (in, out) in both."""

    def __init__(self, in_units: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_units, units))
        self.bias = nn.Parameter(torch.randn(units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `relu(x weight + bias)`."""
        return torch.relu(x @ self.weight + self.bias)


class Block(nn.Sequential):
    """Twin of `ch4jax.parameters.Block`."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())


class RGNet(nn.Sequential):
    """Twin of `ch4jax.parameters.RGNet`, with its blocks in one Sequential more."""

    names: ClassVar = {"0": "", "1": "Dense_0"}

    def __init__(self) -> None:
        blocks = nn.Sequential()
        for i in range(4):
            blocks.add_module(f"block{i}", Block())
        super().__init__(blocks, nn.Linear(4, 1))


class SharedMLP(nn.Sequential):
    """Twin of `ch4jax.parameters.SharedMLP`, one layer standing at two places."""

    names: ClassVar = {"0": "hidden", "2": "shared", "4": "shared", "6": "out"}

    def __init__(self) -> None:
        first, shared, out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        super().__init__(first, nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), out)


class DeepMLP(nn.Module):
    """Twin of `ch4jax.deep_mlp`: `hidden` lists the layers that are stacked there."""

    def __init__(
        self,
        num_inputs: int,
        width: int,
        depth: int,
        num_classes: int,
        activation: Callable[[torch.Tensor], torch.Tensor],
        *,
        residual: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.activation, self.residual = activation, residual
        self.layer_norm = layer_norm
        self.first = nn.Linear(num_inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.output = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        h = self._layer(self.first, x.flatten(1))
        for linear in self.hidden:
            a = self._layer(linear, h)
            h = h + a if self.residual else a
        return self.output(h)

    def _layer(self, linear: nn.Module, h: torch.Tensor) -> torch.Tensor:
        a = self.activation(linear(h))
        return nn.functional.layer_norm(a, a.shape[1:]) if self.layer_norm else a
