"""What the tests of several rooms use."""

from collections.abc import Iterable

import numpy as np


def relative_difference(a, b) -> float:
    """Return ||a - b|| / ||b||."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def largest_difference(pairs: Iterable[tuple]) -> float:
    """Return the largest relative difference over pairs of parameters."""
    return max(relative_difference(a, b) for a, b in pairs)
