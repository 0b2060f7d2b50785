"""Level 4: independent runs on both sides start alike and end alike."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.stats
from jaxtyping import ArrayLike, PyTree

from ch4jax.parity._report import Check
from ch4jax.statistics import difference_interval, equivalence_p

ALPHA = 0.05  # of the equivalence test
MOST_DRAWS = 50_000  # of a parameter


class Outcomes(NamedTuple):
    """The final metrics of independent runs.

    Attributes:
      metric: by which a finished run is judged.
      margin: difference of means from which the two sides count as different.
      ours: shape (runs,).
      theirs: shape (runs,).
      difference: of the means.
      interval: the 90% interval of the difference; inside the margins if and only if
        both one-sided tests reject at 5%.
      p: the larger of the two p-values.
    """

    metric: str
    margin: float
    ours: np.ndarray
    theirs: np.ndarray
    difference: float
    interval: tuple[float, float]
    p: float

    @property
    def check(self) -> Check:
        """The end of the interval that is further from zero, within the margin."""
        runs = f"{len(self.ours)} runs a side"
        what = f"{self.metric}, {runs}, bound of the 90% interval"
        return Check(4, what, "", float(np.max(np.abs(self.interval))), self.margin)


def outcomes(
    ours: ArrayLike, theirs: ArrayLike, margin: float, metric: str = "metric"
) -> Outcomes:
    """Compare the final metrics of runs that share nothing but the hyperparameters.

    Equivalence is shown by two one-sided tests: see `ch4jax.statistics`.

    Args:
      ours: a number for each run, two or more.
      theirs: the same for PyTorch's runs.
      margin: difference of means from which the two sides count as different; choose
        it before you see a run.
      metric: what the numbers are, in words.

    Raises:
      ValueError: if there are too few runs, or one of them is not finite.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    interval = difference_interval(a, b, 1 - 2 * ALPHA)
    ends = interval.low, interval.high
    p = equivalence_p(a, b, margin)
    return Outcomes(metric, margin, a, b, interval.estimate, ends, p)


def same_start(ours: Sequence[PyTree], theirs: Sequence[PyTree]) -> Check:
    """Compare how parameters are drawn on both sides (Kolmogorov-Smirnov).

    The tolerance is the distance that samples of this size exceed once in 10,000 times.

    Args:
      ours: trees of parameters, each drawn by itself.
      theirs: as many, in the same structure; see `ch4jax.interop.from_torch`.
    """
    found = []
    columns = [
        zip(*map(jax.tree.leaves, trees), strict=True) for trees in (ours, theirs)
    ]
    for pair in zip(*columns, strict=True):
        a, b = (np.concatenate([np.ravel(x) for x in c])[:MOST_DRAWS] for c in pair)
        if np.ptp(a) == np.ptp(b) == 0:
            distance, bound = np.any(a[0] != b[0]), 0.5
        else:
            distance, _ = scipy.stats.ks_2samp(a, b)
            bound = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / a.size)
        found.append((distance, bound))
    worst = np.argmax([distance / bound for distance, bound in found])  # NaN is worst
    distance, bound = map(float, found[worst])
    return Check(4, "start, distance of distributions", "", distance, bound)
