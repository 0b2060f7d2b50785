"""Hold a Flax module, or any function, to its original in PyTorch, or the reverse."""

from ch4jax.parity._compare import assert_same, compare
from ch4jax.parity._optimizers import Pair, optimizers
from ch4jax.parity._report import Check, Report, difference

__all__ = [
    "Check",
    "Pair",
    "Report",
    "assert_same",
    "compare",
    "difference",
    "optimizers",
]
