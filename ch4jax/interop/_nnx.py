"""Flax's Linen modules and their variables to NNX, and back."""

from collections.abc import Mapping
from typing import Any

from flax import linen, nnx
from flax.nnx.bridge import variables as bridge


def linen_to_nnx(module: linen.Module, variables: Mapping[str, Any]) -> nnx.Module:
    """Return an NNX module that computes what the Linen module does.

    Its `params` are `nnx.Param`; any other collection is a Variable of its own type,
    which `nnx.grad` and optimizers ignore. If you have a native NNX module with the
    same names, you need no wrapper: `nnx.update(native, variables["params"])`.
    """
    wrapped = nnx.bridge.ToNNX(module)
    for name, value in bridge.linen_vars_to_nnx_attrs(variables).items():
        setattr(wrapped, name, value)
    return wrapped


def nnx_to_linen(module: nnx.Module) -> dict[str, Any]:
    """Return the variables of an NNX module by collection, as Linen has them."""
    state = nnx.state(module, nnx.Not(nnx.RngState))
    return bridge.nnx_attrs_to_linen_vars(dict(state))
