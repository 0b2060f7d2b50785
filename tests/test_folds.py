"""Folds: disjoint, covering, balanced; and members that do not touch each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ch4jax.training import folds


def test_folds_are_disjoint_cover_all_rows_and_differ_by_at_most_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(2, 500))
        k = int(rng.integers(2, n + 1))
        seed = None if rng.random() < 0.5 else int(rng.integers(100))
        left_out = ~folds.k_fold(n, k, seed=seed)
        np.testing.assert_array_equal(left_out.sum(axis=0), 1)
        sizes = left_out.sum(axis=1)
        assert len(sizes) == k
        assert sizes.max() - sizes.min() <= 1


def test_shuffled_folds_are_those_of_scikit_learn():
    # sklearn 1.9.1, KFold(3, shuffle=True, random_state=7) and
    # KFold(5, shuffle=True, random_state=0): rows, and sums of rows, left out
    rows = [np.flatnonzero(~fold).tolist() for fold in folds.k_fold(11, 3, seed=7)]
    assert rows == [[0, 2, 5, 8], [1, 3, 7, 10], [4, 6, 9]]
    sums = [np.flatnonzero(~fold).sum() for fold in folds.k_fold(1460, 5, seed=0)]
    assert sums == [203453, 231603, 203251, 214274, 212489]


def test_an_epoch_deals_each_row_of_the_fold_once_and_no_other():
    in_training = jnp.array(np.random.default_rng(0).random(101) < 0.7)
    num_steps = folds.steps_per_epoch(np.asarray(in_training), 16) + 1
    orders = []
    for seed in range(3):
        rows, real = folds.shuffled_batches(
            in_training, 16, num_steps, key=jax.random.key(seed)
        )
        dealt = np.asarray(rows)[np.asarray(real)]
        np.testing.assert_array_equal(np.sort(dealt), np.flatnonzero(in_training))
        orders.append(tuple(dealt))
    assert len(set(orders)) == 3


def test_each_row_is_as_likely_to_come_first():
    in_training = jnp.arange(20) % 4 != 0  # 15 of 20

    def first(key):
        return folds.shuffled_batches(in_training, 4, 4, key=key)[0][0, 0]

    n = 15_000
    firsts = jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(0), n))
    counts = np.bincount(firsts, minlength=20)
    np.testing.assert_array_equal(counts[::4], 0)
    five_sigma = 5 * np.sqrt(n * (1 / 15) * (14 / 15))
    assert np.abs(np.delete(counts, np.s_[::4]) - n / 15).max() < five_sigma


def metrics(params, x, labels, *, key):
    return {"loss": jnp.square(x @ params - labels)}


@pytest.mark.parametrize("num_rows", [4_000, 100_000])
def test_neighbours_in_a_batch_rise_and_fall_alike_however_long_the_table(num_rows):
    in_training = jnp.arange(num_rows) % 4 != 0
    steps = 3 * num_rows // 400
    rows, real = folds.shuffled_batches(in_training, 100, steps, key=jax.random.key(0))
    assert real.all()
    np.testing.assert_array_equal(np.sort(rows, axis=None), np.flatnonzero(in_training))
    rising = (np.diff(rows) > 0).mean()
    assert abs(rising - 0.5) <= 5 * 0.5 / np.sqrt(rows.size)


@pytest.mark.parametrize("size", [7, 9, 12])
def test_a_fold_that_needs_fewer_steps_does_not_change_in_the_others(size, x64):
    rng = np.random.default_rng(0)
    data = jnp.array(rng.normal(size=(20, 3))), jnp.array(rng.normal(size=20))
    in_training = jnp.arange(20) < size

    def fit(steps):
        return folds.fit(
            jnp.zeros(3),
            data,
            in_training,
            metrics_fn=metrics,
            optimizer=optax.adam(0.1),
            epochs=4,
            batch_size=4,
            steps=steps,
            watch=True,
            key=jax.random.key(0),
        )

    needed = folds.steps_per_epoch(np.asarray(in_training), 4)
    (params, history), (more, _) = fit(needed), fit(needed + 2)
    np.testing.assert_array_equal(params, more)
    assert np.isfinite(params).all()
    errors = np.square(data[0] @ params - data[1])
    np.testing.assert_allclose(history["train_loss"][-1], errors[:size].mean())
    np.testing.assert_allclose(history["valid_loss"][-1], errors[size:].mean())
