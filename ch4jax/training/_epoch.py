"""One model, one compiled epoch: the state, the step, the scan, the evaluation.

Everything here is driven by one function of the caller's, the *metrics function*

    metrics_fn(params, inputs, labels, *, key) -> {"loss": rows, ...}

which returns one value a row for each metric. Training minimises the mean of
`"loss"`; evaluation passes `key=None`, which means that nothing is random.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, PyTree

Metrics = dict[str, Array]
MetricsFn = Callable[..., Metrics]
Data = tuple[Array, Array]


class TrainState(NamedTuple):
    """All that changes during training, and all that a checkpoint holds."""

    params: PyTree
    opt_state: Any
    step: Int[Array, "*members"]


class Batch(NamedTuple):
    """A batch of constant size; the rows where `real` is false are padding."""

    inputs: Array
    labels: Array
    real: Bool[Array, " batch"]


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def classification_metrics(
    logits: Float[Array, "batch classes"], labels: Integer[Array, " batch"]
) -> Metrics:
    """Return cross-entropy in nats and accuracy (0 or 1) of each row."""
    labels = labels.astype(jnp.int32)
    return {
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        "accuracy": (logits.argmax(axis=-1) == labels).astype(logits.dtype),
    }


def batch_rows(
    num_rows: int, batch_size: int, *, key: PRNGKeyArray | None
) -> tuple[Int[Array, "steps batch"], Bool[Array, "steps batch"]]:
    """Deal the row numbers into batches of one size, padding the last.

    >>> rows, real = batch_rows(5, 3, key=None)
    >>> rows.tolist()
    [[0, 1, 2], [3, 4, 0]]
    >>> real.tolist()
    [[True, True, True], [True, True, False]]

    Args:
      num_rows: rows in the data set.
      batch_size: rows in a batch.
      key: shuffles the rows; None keeps their order.

    Returns:
      The row numbers, each of which stands exactly once where the second
      result is true. Padding repeats row 0.
    """
    steps = -(-num_rows // batch_size)
    rows = jnp.arange(num_rows)
    if key is not None:
        rows = jax.random.permutation(key, rows)
    rows = jnp.pad(rows, (0, steps * batch_size - num_rows))
    real = jnp.arange(steps * batch_size) < num_rows
    return rows.reshape(steps, batch_size), real.reshape(steps, batch_size)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
) -> tuple[TrainState, Metrics]:
    """Follow the gradient of the mean loss over the real rows of one batch.

    What is random draws from `fold_in(key, state.step)`, so that a restored run
    draws what an uninterrupted one would.

    Returns:
      The new state, and the sum of each metric over the real rows.
    """
    step_key = jax.random.fold_in(key, state.step)

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        metrics = metrics_fn(params, batch.inputs, batch.labels, key=step_key)
        sums = _sum_real_rows(metrics, batch.real)
        return sums["loss"] / batch.real.sum(), sums

    grads, sums = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), sums


@partial(jax.jit, static_argnames=("metrics_fn", "optimizer", "batch_size"))
def train_epoch(
    state: TrainState,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    key: PRNGKeyArray,
) -> tuple[TrainState, Metrics]:
    """Train on every row of `data` once, in an order that `key` shuffles.

    The mean loss of the last, shorter batch is that of PyTorch's DataLoader
    without `drop_last`: over the rows that there are.

    Args:
      state: where to start.
      data: inputs and labels, one row an example.
      metrics_fn: see the head of this module.
      optimizer: what made `state.opt_state`.
      batch_size: rows in a batch.
      key: the key of the *run*, the same in each epoch: the order of epoch and
        step is drawn from it and `state.step`.

    Returns:
      The new state, and the mean over all rows of each metric as it was when
      the row was trained on.
    """
    shuffle_key, step_key = jax.random.split(key)
    num_rows = data[0].shape[0]
    rows, real = batch_rows(
        num_rows, batch_size, key=jax.random.fold_in(shuffle_key, state.step)
    )

    def step(
        state: TrainState, batch: tuple[Array, Array]
    ) -> tuple[TrainState, Metrics]:
        return train_step(
            state,
            _take(data, *batch),
            metrics_fn=metrics_fn,
            optimizer=optimizer,
            key=step_key,
        )

    state, sums = jax.lax.scan(step, state, (rows, real))
    return state, jax.tree.map(lambda s: s.sum() / num_rows, sums)


@partial(jax.jit, static_argnames=("metrics_fn", "batch_size"))
def evaluate(
    params: PyTree, data: Data, *, metrics_fn: MetricsFn, batch_size: int = 2048
) -> Metrics:
    """Return the mean of each metric over all rows of `data`, nothing random."""
    num_rows = data[0].shape[0]
    batches = batch_rows(num_rows, min(batch_size, num_rows), key=None)

    def sums(batch: tuple[Array, Array]) -> Metrics:
        inputs, labels, real = _take(data, *batch)
        return _sum_real_rows(metrics_fn(params, inputs, labels, key=None), real)

    return jax.tree.map(lambda s: s.sum() / num_rows, jax.lax.map(sums, batches))


def _take(data: Data, rows: Array, real: Array) -> Batch:
    inputs, labels = data
    return Batch(inputs[rows], labels[rows], real)


def _sum_real_rows(metrics: Metrics, real: Array) -> Metrics:
    return jax.tree.map(lambda rows: jnp.where(real, rows, 0).sum(), metrics)
