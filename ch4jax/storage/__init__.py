"""Saving and restoring (D2L 6.5): what is loaded is what was saved, or an error."""

from ch4jax.storage._folders import Checkpoints, load, save

__all__ = ["Checkpoints", "load", "save"]
