"""One model: its state, a step, an epoch, a whole training run, an evaluation.

Everything here is driven by one function of yours, the *metrics function*

    metrics_fn(params, inputs, labels, *, key) -> {"loss": rows, ...}

which returns one value a row for each metric. Training minimises the mean of
`"loss"`; evaluation passes `key=None`, which means that nothing is random.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.export import register_namedtuple_serialization
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from ch4jax.training.checks import check_counts, check_labels, check_mask, check_rows

Metrics = dict[str, Array]
Data = tuple[Array, Array]


@runtime_checkable
class MetricsFn(Protocol):
    """A metrics function; partials and closures are metrics functions too."""

    def __call__(
        self,
        params: PyTree,
        inputs: Array,
        labels: Array,
        /,
        *,
        key: PRNGKeyArray | None,
    ) -> Metrics:
        """Return one value a row for each metric."""
        ...


@partial(
    register_namedtuple_serialization, serialized_name="ch4jax.training.TrainState"
)
class TrainState(NamedTuple):
    """All that changes during training, and all that a checkpoint holds."""

    params: PyTree
    opt_state: optax.OptState
    step: Int[Array, "*members"]


@partial(register_namedtuple_serialization, serialized_name="ch4jax.training.Batch")
class Batch(NamedTuple):
    """A batch of constant size; where `real` is false, rows are padding."""

    inputs: Array
    labels: Array
    real: Bool[Array, " batch"]


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step, in arrays of its own.

    `train_epoch` reuses the memory of the state it is given; `params` stay yours.
    """
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    return jax.tree.map(jnp.copy, state)  # an optimizer's state may share its params


def classification_metrics(
    logits: Float[Array, "*batch classes"], labels: Shaped[Array, "..."]
) -> Metrics:
    """Return cross-entropy in nats and accuracy (0 or 1) of each row.

    A label that is no class makes the loss of its row NaN.

    Raises:
      ValueError: if `labels` are not integers, one for each row.
    """
    check_labels(logits, labels)
    if labels.dtype.itemsize < 8:
        labels = labels.astype(jnp.int32)
    num_classes = logits.shape[-1]
    # Optax counts negative labels from the end, and makes NaN of others that are none.
    is_class = (labels >= 0) & (labels < num_classes)
    labels = jnp.where(is_class, labels, num_classes)
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
      Row numbers, and which of them are real: each row is real exactly once. Padding
      repeats row 0.

    Raises:
      ValueError: if `num_rows` or `batch_size` is below 1.
    """
    check_counts(num_rows=num_rows, batch_size=batch_size)
    steps = -(-num_rows // batch_size)
    rows = jnp.arange(num_rows)
    if key is not None:
        rows = jax.random.permutation(key, rows)
    rows = jnp.pad(rows, (0, steps * batch_size - num_rows))
    real = jnp.arange(steps * batch_size) < num_rows
    return rows.reshape(steps, batch_size), real.reshape(steps, batch_size)


def take_rows(
    data: Data, rows: Int[Array, " batch"], real: Bool[Array, " batch"]
) -> Batch:
    """Return the batch with these rows of `data`."""
    inputs, labels = data
    return Batch(inputs[rows], labels[rows], real)


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

    Raises:
      ValueError: if inputs, labels and `real` have not as many rows, `real` is no mask,
        or `metrics_fn` does not return a loss in floats, and one value a row.
    """
    check_rows(**batch._asdict())
    check_mask(real=batch.real)
    return _step(
        state,
        batch,
        batch.real.sum(),
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        key=key,
    )


def _step(
    state: TrainState,
    batch: Batch,
    num_real: Int[Array, ""],
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
) -> tuple[TrainState, Metrics]:
    """Take a step of `train_step`, given how many rows are real."""
    step_key = jax.random.fold_in(key, state.step)

    def mean_loss(params: PyTree) -> tuple[Array, Metrics]:
        # A line search evaluates it again, with the same key.
        again = jax.random.clone(step_key)
        metrics = metrics_fn(params, batch.inputs, batch.labels, key=again)
        sums = sum_rows(metrics, batch.real)
        if "loss" not in metrics:
            raise ValueError(f"metrics_fn must return a 'loss', got {list(metrics)}")
        if not jnp.issubdtype(kind := metrics["loss"].dtype, jnp.floating):
            raise ValueError(
                f"the 'loss' must be in floats to have a slope, got {kind}"
            )
        return sums["loss"] / num_real, sums

    (loss, sums), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: mean_loss(params)[0],
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), sums


def _train_epoch(
    state: TrainState,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    key: PRNGKeyArray,
) -> tuple[TrainState, Metrics]:
    """Train on every row of `data` once, in an order that `key` shuffles.

    The loss of the last, shorter batch is the mean over its rows, as with PyTorch's
    DataLoader without `drop_last`. Jitted, with `metrics_fn`, `optimizer` and
    `batch_size` static and `state` donated.

    Args:
      state: where to start. Its memory is reused: JAX raises an error if you use it
        afterwards.
      data: inputs and labels, one row an example.
      metrics_fn: see the head of this module.
      optimizer: what made `state.opt_state`; its hyperparameters are Python numbers.
      batch_size: rows in a batch.
      key: the key of the *run*, the same in each epoch: the order of epoch and
        step is drawn from it and `state.step`.

    Returns:
      The new state, and the mean over all rows of each metric as it was when
      the row was trained on.

    Raises:
      ValueError: if there are no rows or not as many labels, if `batch_size` is below
        1, or if `metrics_fn` does not return a loss, and one value a row.
    """
    num_rows = check_rows(inputs=data[0], labels=data[1])
    shuffle_key, step_key = jax.random.split(key)
    rows, real = batch_rows(
        num_rows, batch_size, key=jax.random.fold_in(shuffle_key, state.step)
    )
    # Counted from the sizes: devices that share the rows would have to sum `real`.
    num_real = jnp.minimum(num_rows - batch_size * jnp.arange(len(rows)), batch_size)
    step = partial(_step, metrics_fn=metrics_fn, optimizer=optimizer, key=step_key)
    state, sums = jax.lax.scan(
        lambda state, xs: step(state, take_rows(data, *xs[:2]), xs[2]),
        state,
        (rows, real, num_real),
    )
    return state, jax.tree.map(lambda s: s.sum() / num_rows, sums)


train_epoch = jax.jit(
    _train_epoch,
    static_argnames=("metrics_fn", "optimizer", "batch_size"),
    donate_argnames="state",
)


def fit(
    params: PyTree,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: PRNGKeyArray,
) -> tuple[PyTree, PyTree]:
    """Train from first epoch to last; made to be jitted, and mapped, by its caller.

    `optimizer` and `metrics_fn` may close over arguments of what you jit, so that one
    program serves every learning rate. The batches are those of `train_epoch`.

    Args:
      params: before training.
      data: inputs and labels, one row an example.
      metrics_fn: see the head of this module.
      optimizer: any.
      epochs: passes over the rows.
      batch_size: rows in a batch.
      key: the key of the run.

    Returns:
      The parameters after the last epoch; and those after each epoch, with a leading
      axis of epochs.

    Raises:
      ValueError: as `train_epoch` does, and if `epochs` is below 1.
    """
    check_counts(epochs=epochs)
    epoch = partial(
        _train_epoch, metrics_fn=metrics_fn, optimizer=optimizer, batch_size=batch_size
    )

    def step(state: TrainState, _: None) -> tuple[TrainState, PyTree]:
        # Epochs draw from one key: `state.step` makes them differ.
        state, _metrics = epoch(state, data, key=jax.random.clone(key))
        return state, state.params

    state, path = jax.lax.scan(step, init_state(params, optimizer), length=epochs)
    return state.params, path


@partial(jax.jit, static_argnames=("metrics_fn", "batch_size"))
def evaluate(
    params: PyTree, data: Data, *, metrics_fn: MetricsFn, batch_size: int = 2048
) -> Metrics:
    """Return the mean of each metric over all rows of `data`, nothing random.

    Raises:
      ValueError: as `train_epoch` does.
    """
    num_rows = check_rows(inputs=data[0], labels=data[1])
    batches = batch_rows(num_rows, min(batch_size, num_rows), key=None)

    def sums(batch: tuple[Array, Array]) -> Metrics:
        inputs, labels, real = take_rows(data, *batch)
        return sum_rows(metrics_fn(params, inputs, labels, key=None), real)

    return jax.tree.map(lambda s: s.sum() / num_rows, jax.lax.map(sums, batches))


def sum_rows(metrics: PyTree, where: Bool[Array, " rows"]) -> Metrics:
    """Return the sum of each metric over some rows, in float32 or better.

    Raises:
      ValueError: if `metrics` are no dictionary, or a metric is not one value a row.
    """
    if not isinstance(metrics, dict):
        kind = type(metrics).__name__
        raise ValueError(f"metrics_fn must return a dictionary of metrics, got {kind}")
    sums = {}
    for name, rows in metrics.items():
        if rows.shape != where.shape:
            raise ValueError(
                f"metrics_fn must return one value for each of {where.size} rows, got "
                f"{name!r} of shape {rows.shape}"
            )
        exact = jnp.promote_types(rows.dtype, jnp.float32)
        sums[name] = rows.sum(dtype=exact, where=where)
    return sums
