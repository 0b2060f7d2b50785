"""Intervals cover what they should; two one-sided tests agree with their interval."""

import numpy as np
import pytest
import scipy.stats

from ch4jax.statistics import (
    conformal_radius,
    difference_interval,
    equivalence_p,
    folds_interval,
    mean_interval,
)

RNG = np.random.default_rng(0)


def test_intervals_are_those_of_scipy():
    a, b = RNG.normal(3.0, 2.0, 7), RNG.normal(0.0, 3.0, 9)
    student = scipy.stats.ttest_1samp(a, 0.0).confidence_interval(0.95)
    welch = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(a), (a.mean(), *student))
    difference = a.mean() - b.mean()
    np.testing.assert_allclose(difference_interval(a, b), (difference, *welch))


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval(np.full(4, 2.0)) == (2.0, 2.0, 2.0)


def test_a_mean_in_half_precision_is_not_rounded_to_it():
    values = np.array([60000.0] * 30 + [50000.0], np.float16)
    assert mean_interval(values).estimate == values.astype(float).mean()


def test_equal_values_are_equivalent_or_not_for_certain():
    same, apart = np.full(3, 2.0), np.full(3, 7.0)
    assert [equivalence_p(same, b, 0.1) for b in (same, apart)] == [0, 1]


@pytest.mark.parametrize("apart", [0.0, 0.3, 0.6, 1.0, 1.5])
def test_equivalence_is_shown_where_the_90_percent_interval_is_inside(apart):
    a, b = RNG.normal(apart, 1.0, 40), RNG.normal(0.0, 1.0, 30)
    _, low, high = difference_interval(a, b, 0.9)
    p = equivalence_p(a, b, 1.0)
    assert (p < 0.05) == (low > -1.0 and high < 1.0)
    sides = ((1.0, "greater"), (-1.0, "less"))
    tests = [
        scipy.stats.ttest_ind(a + shift, b, equal_var=False, alternative=side)
        for shift, side in sides
    ]
    np.testing.assert_allclose(p, np.max([value for _, value in tests]))


def test_folds_that_share_rows_count_as_fewer_runs_than_they_are():
    values = RNG.normal(3.0, 2.0, (10, 5))  # ten times five folds
    shared = values.var(ddof=1) * (1 / 50 + 1 / 4)  # Nadeau and Bengio (2003)
    half = scipy.stats.t.ppf(0.975, 49) * np.sqrt(shared)
    mean = values.mean()
    np.testing.assert_allclose(folds_interval(values), (mean, mean - half, mean + half))


def test_a_conformal_interval_covers_a_new_value_at_least_as_often_as_it_says():
    covered = 0
    for _ in range(4000):
        *residuals, new = RNG.standard_cauchy(20)
        covered += abs(new) <= conformal_radius(np.array(residuals), 0.9)
    five_sigma = 5 * np.sqrt(4000 * 0.9 * 0.1)
    assert abs(covered - 4000 * 0.9) <= five_sigma  # 18 of 20 exactly
