"""A pair for `python -m experiments.compare`: a module of Flax beside PyTorch's.

Put your two modules in place of these, and say what goes into them. Nothing else is
needed: parameters are carried over, and dropout gets the same masks.
"""

import numpy as np
from flax import linen
from torch import nn

# The original, whose parameters are carried over.
theirs = nn.Sequential(
    nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 3)
)


class Classifier(linen.Module):
    """What PyTorch's module is in Flax; an NNX module does as well."""

    @linen.compact
    def __call__(self, x, *, train=False):
        """Return the logits; a module without dropout needs no `train`."""
        x = linen.LayerNorm(epsilon=1e-5)(linen.Dense(16)(x))
        x = linen.gelu(x, approximate=False)
        x = linen.Dropout(0.1, deterministic=not train)(x)
        return linen.Dense(3)(x)


ours = Classifier()

# One batch: what both modules are called with (a tuple if they take several arrays),
# and its labels. Integers are classes of a cross-entropy, floats are compared by their
# mean squared error.
rng = np.random.default_rng(0)
inputs = rng.normal(size=(32, 8))
labels = rng.integers(0, 3, 32)

# Further arguments of `ch4jax.parity.compare`, such as `losses`, `names` or `pairs`.
options = {"steps": 50}
