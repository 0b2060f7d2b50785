"""Flax's Linen modules and their variables to NNX, and back."""

from collections.abc import Mapping
from typing import Any

from flax import linen, nnx
from flax.nnx.bridge import variables as bridge
from flax.traverse_util import unflatten_dict
from jax.tree_util import keystr, tree_leaves_with_path

Path = tuple[str | int, ...]


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
    """Return the variables of an NNX module by collection, as Linen has them.

    The k-th of a list `layers` is `layers_k`, as Linen names it. A shared variable
    comes back under each of its names.
    """
    named: dict[tuple[str, ...], nnx.Variable] = {}
    for path, variable in variables_of(module):
        keys: list[str] = []
        for key in path:
            if isinstance(key, int) and keys:
                keys[-1] += f"_{key}"
            else:
                keys.append(str(key))
        named[tuple(keys)] = variable
    return bridge.nnx_attrs_to_linen_vars(unflatten_dict(named))


def variables_of(module: nnx.Module) -> list[tuple[Path, nnx.Variable]]:
    """Return the variables with their paths, a shared one under each, without keys."""
    leaves = tree_leaves_with_path(module, lambda x: isinstance(x, nnx.Variable))
    return [
        (tuple(map(_plain, path)), leaf)
        for path, leaf in leaves
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.RngState)
    ]


def _plain(key: Any) -> str | int:
    name = keystr((key,), simple=True)
    return int(name) if name.isdecimal() else name
