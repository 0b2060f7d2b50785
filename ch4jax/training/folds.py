"""Cross-validation in one program: every fold, seed and setting is a member.

A fold is a mask over the rows of the whole table: true where the fold trains, false
where it validates. All members then have arrays of one shape, whatever the sizes of
their folds, and `jax.vmap` maps `fit`, which is `training.fit` on masked rows, over any
of its arguments.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Shaped

import ch4jax.training._epoch as training
from ch4jax.training._epoch import (
    Data,
    Metrics,
    MetricsFn,
    TrainState,
    sum_rows,
    take_rows,
)
from ch4jax.training.checks import check_counts, check_mask, check_rows


def k_fold(
    num_rows: int, k: int, *, seed: int | None = None
) -> Bool[np.ndarray, "k n"]:
    """Split rows into `k` folds that are disjoint, cover all, and differ by one row.

    >>> k_fold(5, 2).astype(int).tolist()
    [[0, 0, 0, 1, 1], [1, 1, 1, 0, 0]]

    Args:
      num_rows: rows in the table.
      k: number of folds.
      seed: shuffles the rows first, as scikit-learn's
        `KFold(k, shuffle=True, random_state=seed)` does; None keeps their order.

    Returns:
      For each fold the rows it trains on; it validates on the others.

    Raises:
      ValueError: if `k` is below 2 or above `num_rows`.
    """
    if not 2 <= k <= num_rows:
        raise ValueError(f"k must be in 2 to the {num_rows} rows, got {k}")
    rows = np.arange(num_rows)
    if seed is not None:
        np.random.RandomState(seed).shuffle(rows)
    held_out = np.array_split(rows, k)
    return np.stack([~np.isin(np.arange(num_rows), part) for part in held_out])


def shuffled_batches(
    in_training: Shaped[Array, "..."], batch_size: int, steps: int, *, key: PRNGKeyArray
) -> tuple[Int[Array, "steps batch"], Bool[Array, "steps batch"]]:
    """Deal the rows that a fold trains on into batches, in an order that `key` draws.

    Returns:
      Row numbers, and which of them are real: each row of the fold is real exactly
      once, and they come first.

    Raises:
      ValueError: if `in_training` is not a mask, or a size is below 1.
    """
    check_counts(batch_size=batch_size, steps=steps)
    check_mask(in_training=in_training)
    # Sorting plain integers is six times as fast as sorting rows by random numbers
    # (argsort). Each integer holds, from the highest bit: whether the fold leaves the
    # row out, a random number, the row. Two rows that draw the same number, less than
    # one pair in a shuffle of 1,460 rows, stay in order.
    num_rows = in_training.size
    low = num_rows.bit_length()
    draws = jax.random.bits(key, (num_rows,), jnp.uint32)
    if low <= 12:
        left_out = (~in_training).astype(jnp.uint32) << 31
        draws = draws >> (low + 1) << low
        order = jnp.sort(left_out | draws | jnp.arange(num_rows, dtype=jnp.uint32))
        rows = (order & ((1 << low) - 1)).astype(jnp.int32)
    else:  # most rows would draw what others draw
        rows = jnp.lexsort((draws, ~in_training)).astype(jnp.int32)
    padding = max(0, steps * batch_size - num_rows)
    rows = jnp.pad(rows, (0, padding))[: steps * batch_size]
    real = jnp.arange(steps * batch_size) < in_training.sum()
    return rows.reshape(steps, batch_size), real.reshape(steps, batch_size)


def fit(
    params: PyTree,
    data: Data,
    in_training: Shaped[Array, "..."],
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    steps: int,
    watch: bool,
    key: PRNGKeyArray,
    on_epoch: Callable[[Int[Array, ""]], None] | None = None,
) -> tuple[PyTree, Metrics]:
    """Train one member from first epoch to last; made to be jitted, and mapped.

    As with `training.fit`, `metrics_fn` and `optimizer` may close over what you map.

    Args:
      params: before training.
      data: inputs and labels of the whole table.
      in_training: the rows to train on.
      metrics_fn: see `ch4jax.training`.
      optimizer: any.
      epochs: passes over the rows of the fold.
      batch_size: rows in a batch.
      steps: steps in an epoch, enough for the largest fold: `steps_per_epoch`. With
        fewer, the parameters are NaN.
      watch: evaluate after each epoch.
      key: the key of the run; epoch i draws from `fold_in(key, i)`.
      on_epoch: called with the number of each epoch, from 0, as it begins; once for all
        members that are mapped over. JAX does not cache such programs on disk.

    Returns:
      The parameters after the last epoch; and, if `watch`, the mean of each metric
      over the rows of the fold and over the others after each epoch (`train_*` and
      `valid_*`, shape (epochs,)), infinite where there are no such rows.

    Raises:
      ValueError: as `training.fit` does, and if `in_training` is no mask of the rows.
    """
    check_rows(inputs=data[0], labels=data[1], in_training=in_training)
    check_counts(epochs=epochs)
    train_step = partial(
        training.train_step, metrics_fn=metrics_fn, optimizer=optimizer
    )

    def epoch(state: TrainState, number: Array) -> tuple[TrainState, Metrics]:
        if on_epoch is not None:
            jax.debug.callback(on_epoch, number)
        shuffle_key, step_key = jax.random.split(jax.random.fold_in(key, number))

        def step(
            state: TrainState, batch: tuple[Array, Array]
        ) -> tuple[TrainState, None]:
            rows, real = batch
            new, _ = train_step(state, take_rows(data, rows, real), key=step_key)
            # A smaller fold may need one step fewer than the largest.
            return jax.tree.map(partial(jnp.where, real.any()), new, state), None

        batches = shuffled_batches(in_training, batch_size, steps, key=shuffle_key)
        state, _ = jax.lax.scan(step, state, batches)
        if not watch:
            return state, {}
        metrics, means = metrics_fn(state.params, *data, key=None), {}
        for split, where in (("train", in_training), ("valid", ~in_training)):
            num_rows = where.sum()
            for name, total in sum_rows(metrics, where).items():
                mean = total / jnp.maximum(num_rows, 1)
                means[f"{split}_{name}"] = jnp.where(num_rows > 0, mean, jnp.inf)
        return state, means

    # Traced, a mask has no count that Python could check.
    enough = in_training.sum() <= steps * batch_size
    params = jax.tree.map(lambda p: jnp.where(enough, p, jnp.nan), params)
    state = training.init_state(params, optimizer)
    state, history = jax.lax.scan(epoch, state, jnp.arange(epochs))
    return state.params, history


def steps_per_epoch(in_training: Bool[np.ndarray, "*folds n"], batch_size: int) -> int:
    """Return the steps that the largest fold needs."""
    check_counts(batch_size=batch_size)
    return -(-int(in_training.sum(axis=-1).max()) // batch_size)
