"""Parameters to the PyTorch twins, and what became of them back."""

import jax
from support import largest_difference

from ch4jax.interop import from_torch, to_torch


def carry(variables, twin):
    """Return the twin with our parameters, in their dtypes."""
    names = getattr(twin, "names", None)
    twin.load_state_dict(to_torch(variables, twin, names=names), assign=True)
    return twin


def gradients(twin, like):
    """Return the gradients of the twin as a tree like our parameters."""
    names = getattr(twin, "names", None)
    return from_torch(twin, like, names=names, gradients=True)


def difference(ours, theirs):
    """Return the largest relative difference of a leaf."""
    trees = map(jax.tree.leaves, (ours, theirs))
    return largest_difference(zip(*trees, strict=True))
