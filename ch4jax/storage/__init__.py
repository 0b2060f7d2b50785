"""Save and restore trees of arrays (D2L 6.6): you get what you saved, or an error."""

from typing import Any

from ch4jax.storage._checkpoints import Checkpoints
from ch4jax.storage._manifest import Marker
from ch4jax.storage._trees import load, save

SKIP: Any = Marker.SKIP  # stands for a tree of any type

__all__ = ["SKIP", "Checkpoints", "load", "save"]
