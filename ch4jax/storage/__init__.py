"""Save and restore trees of arrays (D2L 6.6): you get what you saved, or an error."""

from ch4jax.storage._checkpoints import Checkpoints
from ch4jax.storage._trees import load, save

__all__ = ["Checkpoints", "load", "save"]
