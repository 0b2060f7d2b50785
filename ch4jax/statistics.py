"""Intervals for means and for differences of independent runs.

Student, "The probable error of a mean", Biometrika 6, 1908; Welch, "The
generalization of Student's problem", Biometrika 34, 1947; Schuirmann, "A comparison of
the two one-sided tests procedure", J. Pharmacokinetics and Biopharmaceutics 15, 1987.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float


class Interval(NamedTuple):
    """An estimate and its confidence interval, in the unit of the values."""

    estimate: float
    low: float
    high: float


def mean_interval(
    values: Float[np.ndarray, " runs"], confidence: float = 0.95
) -> Interval:
    """Return the mean of independent values and Student's interval.

    For two methods that ran on the same draws, pass the differences: their pairing
    removes what the draws have in common.

    >>> [round(number, 2) for number in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]

    Raises:
      ValueError: if there are fewer than two values, or one is not finite.
    """
    variance = _variance_of_mean(values)
    return _student(float(values.mean()), variance, values.size - 1.0, confidence)


def difference_interval(
    a: Float[np.ndarray, " runs"],
    b: Float[np.ndarray, " other_runs"],
    confidence: float = 0.95,
) -> Interval:
    """Return mean `a` minus mean `b` and Welch's interval; the runs share nothing.

    Raises:
      ValueError: if there are fewer than two values a side, or one is not finite.
    """
    variances = np.array([_variance_of_mean(a), _variance_of_mean(b)])
    total = float(variances.sum())
    shares = variances / total if total else np.array([0.5, 0.5])
    freedom = float(1 / (np.square(shares) / (a.size - 1, b.size - 1)).sum())
    return _student(float(a.mean() - b.mean()), total, freedom, confidence)


def equivalence_p(
    a: Float[np.ndarray, " runs"], b: Float[np.ndarray, " other_runs"], margin: float
) -> float:
    """Return the p-value of the hypothesis that two means are `margin` or more apart.

    Small means equivalent: two one-sided tests, of which the larger p-value counts. It
    is below 0.05 if and only if the 90% interval lies inside the margins.
    """
    sides = ((margin, "greater"), (-margin, "less"))
    tests = [
        scipy.stats.ttest_ind(a + shift, b, equal_var=False, alternative=side)
        for shift, side in sides
    ]
    return float(np.max([p for _, p in tests]))


def _variance_of_mean(values: Float[np.ndarray, " runs"]) -> float:
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"need at least 2 runs, all of them finite, got {values}")
    return float(values.var(ddof=1, dtype=float) / values.size)


def _student(
    estimate: float, variance: float, freedom: float, confidence: float
) -> Interval:
    half = scipy.stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return Interval(estimate, float(estimate - half), float(estimate + half))
