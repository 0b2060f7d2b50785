"""Hold a Flax module, or any function, to its original in PyTorch, or the reverse."""

from ch4jax.parity._compare import assert_same, compare
from ch4jax.parity._masks import Mask, mask_checks, recorded, replayed_in_torch
from ch4jax.parity._optimizers import Pair, optimizers
from ch4jax.parity._outcomes import Outcomes, outcomes, same_start
from ch4jax.parity._report import Check, Report, difference

__all__ = [
    "Check",
    "Mask",
    "Outcomes",
    "Pair",
    "Report",
    "assert_same",
    "compare",
    "difference",
    "mask_checks",
    "optimizers",
    "outcomes",
    "recorded",
    "replayed_in_torch",
    "same_start",
]
