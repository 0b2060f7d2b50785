"""The epochs of an experiment: compile, train, tell, and stop when a loss is lost."""

from typing import Any, NamedTuple

from experiments.errors import Failed
from experiments.report import Report


class Fit(NamedTuple):
    """What training left.

    Attributes:
      states: of the members, after the last epoch.
      history: `train_*` and `test_*` of each metric, shape (epochs, members). The
        training metrics are running means, taken while the parameters changed and
        with whatever is random in training.
      final: each metric on the training data after the last epoch, nothing random,
        shape (members,).
      compile_seconds: tracing and compiling, training and evaluation together.
      epoch_seconds: median over the epochs, without evaluation.
    """

    states: Any
    history: dict[str, Any]
    final: dict[str, Any]
    compile_seconds: float
    epoch_seconds: float


def fit(
    report: Report,
    label: str,
    states: Any,
    train_data: Any,
    test_data: Any,
    *,
    epochs: int,
    keys: Any,
    metrics_fn: Any,
    optimizer: Any,
    batch_size: int,
) -> Fit:
    """Train a population for some epochs, each followed by a look at the test data.

    Every epoch is reported, and appended to `metrics.jsonl` with its `label`.

    Raises:
      Failed: if the training loss of a member is not finite; the epochs so far
        stay in `metrics.jsonl`.
    """
    import numpy as np

    from ch4jax import population, timing

    train_epoch, epoch_compile = timing.compile(
        population.train_epoch,
        states,
        train_data,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        batch_size=batch_size,
        keys=keys,
    )
    evaluate_train, train_compile = timing.compile(
        population.evaluate, states.params, train_data, metrics_fn=metrics_fn
    )
    evaluate_test, test_compile = timing.compile(
        population.evaluate, states.params, test_data, metrics_fn=metrics_fn
    )
    rows: list[dict[str, Any]] = []
    seconds: list[float] = []
    with report.progress(label, epochs) as done:
        for epoch in range(1, epochs + 1):
            (states, trained), elapsed = timing.timed(
                lambda states=states: train_epoch(states, train_data, keys=keys)
            )
            tested = evaluate_test(states.params, test_data)
            row = {f"train_{name}": np.asarray(v) for name, v in trained.items()}
            row |= {f"test_{name}": np.asarray(v) for name, v in tested.items()}
            report.metrics(run=label, epoch=epoch, seconds=elapsed, **row)
            done(", ".join(_words(name, values) for name, values in row.items()))
            _stop_if_lost(label, epoch, row["train_loss"])
            rows.append(row)
            seconds.append(elapsed)
    final = evaluate_train(states.params, train_data)
    return Fit(
        states,
        {name: np.stack([row[name] for row in rows]) for name in rows[0]},
        {name: np.asarray(values) for name, values in final.items()},
        epoch_compile + train_compile + test_compile,
        float(np.median(seconds)),
    )


def _words(name: str, values: Any) -> str:
    return f"{name.replace('_', ' ')} {values.mean():.4f}"


def _stop_if_lost(label: str, epoch: int, losses: Any) -> None:
    import numpy as np

    lost = np.flatnonzero(~np.isfinite(losses))
    if lost.size:
        which = f" of member {lost[0]}" if losses.size > 1 else ""
        raise Failed(
            f"{label}: the training loss{which} is {losses[lost[0]]} in epoch {epoch}; "
            "a lower --learning-rate may hold it (metrics.jsonl has the epochs so far)"
        )
