"""Parameters to the PyTorch twins, and what became of them back."""

import jax
from support import largest_difference

from ch4jax.interop import from_torch, to_torch


def carry(variables, twin):
    """Return the twin with our parameters, in their dtypes."""
    names = getattr(twin, "names", None)
    state_dict = to_torch(variables, twin.state_dict(), names=names)
    twin.load_state_dict(state_dict, assign=True)
    return twin


def gradients(twin, like):
    """Return the gradients of the twin as a tree like our parameters."""
    parameters = twin.named_parameters(remove_duplicate=False)
    grads = {name: parameter.grad for name, parameter in parameters}
    return from_torch(grads, like, names=getattr(twin, "names", None))


def difference(ours, theirs):
    """Return the largest relative difference of a leaf."""
    trees = map(jax.tree.leaves, (ours, theirs))
    return largest_difference(zip(*trees, strict=True))
