"""The modules of the package as a PyTorch user writes them.

Each takes the variables of its Linen twin and carries the same names, so that
`arrays(twin)` is the Linen tree again, by path.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn


def tensor(array):
    return torch.tensor(np.asarray(array))


def linear(params):
    """Return a layer of PyTorch's, whose weight is our kernel transposed."""
    kernel = tensor(params["kernel"])
    layer = nn.Linear(*kernel.shape, dtype=kernel.dtype)
    layer.weight.data = kernel.T.clone()
    layer.bias.data = tensor(params["bias"])
    return layer


def arrays(twin, of=lambda parameter: parameter):
    """Return the parameters, or what `of` makes of each, by Linen's paths."""
    found = {}
    for name, parameter in twin.named_parameters():
        array = of(parameter).detach().numpy()
        *path, last = name.split(".")
        if isinstance(twin.get_submodule(".".join(path)), nn.Linear):
            array, last = array.T, {"weight": "kernel", "bias": "bias"}[last]
        found["/".join([*path, last])] = array
    return found


def gradients(twin):
    return arrays(twin, of=lambda parameter: parameter.grad)


class MLP(nn.Module):
    def __init__(self, variables):
        super().__init__()
        self.hidden = linear(variables["params"]["hidden"])
        self.out = linear(variables["params"]["out"])

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


class MySequential(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(f"layers_{i}", layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class FixedHiddenMLP(nn.Module):
    def __init__(self, variables):
        super().__init__()
        self.rand_weight = tensor(variables["constants"]["rand_weight"])
        self.linear = linear(variables["params"]["linear"])

    def forward(self, x):
        x = self.linear(x)
        x = torch.relu(torch.mm(x, self.rand_weight) + 1)
        x = self.linear(x)
        while x.abs().sum() > 1:
            x /= 2
        return x.sum()


class NestMLP(nn.Module):
    def __init__(self, variables):
        super().__init__()
        params = variables["params"]
        self.net = MySequential(
            linear(params["net"]["layers_0"]),
            nn.ReLU(),
            linear(params["net"]["layers_2"]),
            nn.ReLU(),
        )
        self.linear = linear(params["linear"])

    def forward(self, x):
        return self.linear(self.net(x))


def chimera(variables):
    params, constants = variables["params"], variables["constants"]
    return MySequential(
        NestMLP({"params": params["layers_0"]}),
        linear(params["layers_1"]),
        FixedHiddenMLP(
            {"params": params["layers_2"], "constants": constants["layers_2"]}
        ),
    )


def perceptron(variables):
    """A ReLU perceptron of Linen's unnamed layers, `Dense_0` to the last."""
    params = variables["params"]
    layers = OrderedDict(flatten=nn.Flatten())
    for i in range(len(params)):
        if i:
            layers[f"relu_{i}"] = nn.ReLU()
        layers[f"Dense_{i}"] = linear(params[f"Dense_{i}"])
    return nn.Sequential(layers)


class CenteredLayer(nn.Module):
    def __init__(self, variables):
        super().__init__()

    def forward(self, x):
        return x - x.mean()


class MyLinear(nn.Module):
    def __init__(self, variables):
        super().__init__()
        self.weight = nn.Parameter(tensor(variables["params"]["weight"]))
        self.bias = nn.Parameter(tensor(variables["params"]["bias"]))

    def forward(self, x):
        return torch.relu(torch.matmul(x, self.weight) + self.bias)


class Block(nn.Module):
    def __init__(self, variables):
        super().__init__()
        self.Dense_0 = linear(variables["params"]["Dense_0"])
        self.Dense_1 = linear(variables["params"]["Dense_1"])

    def forward(self, x):
        return torch.relu(self.Dense_1(torch.relu(self.Dense_0(x))))


class RGNet(nn.Module):
    def __init__(self, variables):
        super().__init__()
        params = variables["params"]
        for i in range(4):
            self.add_module(f"block{i}", Block({"params": params[f"block{i}"]}))
        self.Dense_0 = linear(params["Dense_0"])

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class SharedMLP(nn.Module):
    def __init__(self, variables):
        super().__init__()
        params = variables["params"]
        self.hidden = linear(params["hidden"])
        self.shared = linear(params["shared"])
        self.out = linear(params["out"])

    def forward(self, x):
        for layer in (self.hidden, self.shared, self.shared):
            x = torch.relu(layer(x))
        return self.out(x)
