"""Intervals for means and differences of runs, for folds, and for predictions.

Student, "The probable error of a mean", Biometrika 6, 1908; Welch, "The
generalization of Student's problem", Biometrika 34, 1947; Schuirmann, "A comparison of
the two one-sided tests procedure", J. Pharmacokinetics and Biopharmaceutics 15, 1987;
Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003;
Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", Springer, 2005.
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
    mean = float(values.mean(dtype=float))
    return _student(mean, variance, values.size - 1.0, confidence)


def difference_interval(
    a: Float[np.ndarray, " runs"],
    b: Float[np.ndarray, " other_runs"],
    confidence: float = 0.95,
) -> Interval:
    """Return mean `a` minus mean `b` and Welch's interval; the runs share nothing.

    Raises:
      ValueError: if there are fewer than two values a side, or one is not finite.
    """
    return _student(*_welch(a, b), confidence)


def equivalence_p(
    a: Float[np.ndarray, " runs"], b: Float[np.ndarray, " other_runs"], margin: float
) -> float:
    """Return the p-value of the hypothesis that two means are `margin` or more apart.

    Small means equivalent: two one-sided tests, of which the larger p-value counts. It
    is below 0.05 if and only if the 90% interval lies inside the margins.

    Raises:
      ValueError: as `difference_interval` does, and if `margin` is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    difference, variance, freedom = _welch(a, b)
    inside = margin - abs(difference)
    if not variance:
        return float(inside <= 0)
    return float(scipy.stats.t.sf(inside / math.sqrt(variance), freedom))


def folds_interval(
    values: Float[np.ndarray, "repeats folds"], confidence: float = 0.95
) -> Interval:
    """Return the mean over repeated k-fold cross-validation and its interval.

    Folds share most of the rows that they train on, so their values are not
    independent: Nadeau and Bengio add the ratio of validation to training rows,
    1 / (folds - 1), to the share 1 / runs of the variance. To compare two methods, pass
    the differences on the same folds.

    Raises:
      ValueError: if there are fewer than two folds, or a value is not finite.
    """
    if (num_folds := values.shape[1]) < 2:
        raise ValueError(f"need at least 2 folds, got {num_folds}")
    variance = _variance_of_mean(values.ravel())
    variance *= 1 + values.size / (num_folds - 1)
    mean = float(values.mean(dtype=float))
    return _student(mean, variance, values.size - 1.0, confidence)


def conformal_radius(
    residuals: Float[np.ndarray, " rows"], coverage: float = 0.9
) -> float:
    """Return how far from a prediction a new value lies with probability `coverage`.

    The residuals are of rows that no model was trained on. If a new row is exchangeable
    with them, the interval covers it at least so often, whatever the distribution.

    >>> conformal_radius(np.arange(-9.0, 10.0), 0.9)
    9.0

    Raises:
      ValueError: if there are too few residuals for the coverage.
    """
    rank = (residuals.size + 1) * coverage
    if not 0 < rank <= residuals.size:
        raise ValueError(
            f"{residuals.size} residuals are too few for a coverage of {coverage}"
        )
    return float(np.sort(np.abs(residuals))[math.ceil(rank) - 1])


def _variance_of_mean(values: Float[np.ndarray, " runs"]) -> float:
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"need at least 2 runs, all of them finite, got {values}")
    return float(values.var(ddof=1, dtype=float) / values.size)


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return a difference of means, its variance, and the degrees of freedom."""
    variances = np.array([_variance_of_mean(a), _variance_of_mean(b)])
    total = float(variances.sum())
    shares = variances / total if total else np.array([0.5, 0.5])
    freedom = float(1 / (np.square(shares) / (a.size - 1, b.size - 1)).sum())
    return float(a.mean(dtype=float) - b.mean(dtype=float)), total, freedom


def _student(
    estimate: float, variance: float, freedom: float, confidence: float
) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    half = scipy.stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return Interval(estimate, float(estimate - half), float(estimate + half))
