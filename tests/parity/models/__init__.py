"""Ten models that are not ours, each in PyTorch and in Flax.

The PyTorch side was written first, as its users publish it. Every file offers

- `torch_module` and `flax_module`, which take and return the same layouts;
- `INPUTS`, a tuple, and `LABELS`: NumPy arrays, in float64 or integers;
- `LOSSES`, functions of outputs and labels, where the default does not do;
- `OPTIONS`, where `interop` needs keywords to pair the two.

A Linen module with dropout or running statistics takes `train`; an NNX module has
`train()` and `eval()`, as in PyTorch.
"""

import importlib

import torch

NAMES = (
    *("lenet", "resnet", "encoder", "decoder", "lstm"),
    *("autoencoder", "tied", "unet", "mixer", "vae"),
)


def read(name):
    """Return what the file of a model defines, by name."""
    return vars(importlib.import_module(f"parity.models.{name}"))


def made(model):
    """Return what `parity.compare` takes, and its keywords."""
    torch.manual_seed(0)
    modules = model["flax_module"](), model["torch_module"]()
    losses = model.get("LOSSES")
    options = {"losses": losses, **model.get("OPTIONS", {})}
    return (*modules, model["INPUTS"], model["LABELS"]), options
