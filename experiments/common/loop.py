"""The epochs of an experiment: compile, train, tell, and stop when a loss is lost."""

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ch4jax import storage
from ch4jax.training import sharding
from experiments.common import resume, timing
from experiments.common.console import Report
from experiments.common.errors import Failed, Interrupted


class Fit(NamedTuple):
    """What training left.

    Attributes:
      states: of the members, after the last epoch, whole and on one device.
      history: `train_*` and `test_*` of each metric, shape (epochs, members). The
        training metrics are running means, taken while the parameters changed and
        with whatever is random in training.
      final: each metric on the training data after the last epoch, nothing random,
        shape (members,).
      compile_seconds: tracing, and compiling or finding what an earlier run compiled,
        for training and evaluation together.
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

    It is spread over the devices that `report` names, and those of other processes.
    Every epoch is reported, and appended to `metrics.jsonl` with its `label`. Where the
    run folder has checkpoints of that label, training goes on from the newest.

    Raises:
      Interrupted: after Ctrl-C or SIGTERM, once the epoch is done and saved.
      Failed: if the training loss of a member is not finite; the epochs so far
        stay in `metrics.jsonl`.
    """
    placement = sharding.spread(sharding.make_mesh(report.devices), len(keys))
    if placement.mesh.size > 1:
        what = "members" if placement.by_members else "the rows of each batch"
        report.say(f"{label}: {what} spread over {placement.mesh.size} devices")
    checkpoints = _open(report, label)
    rows: list[dict[str, Any]] = []
    if checkpoints.steps():
        like = {"states": states, "keys": keys, "history": ...}
        epoch, kept = checkpoints.restore(like)
        states, keys, columns = kept["states"], kept["keys"], kept["history"]
        rows = [
            {name: column[i] for name, column in columns.items()} for i in range(epoch)
        ]
        for i, row in enumerate(rows):
            report.metrics(run=label, epoch=i + 1, **row)
    states, placed_keys = sharding.place((states, keys), placement.members)
    train_data, test_data = sharding.place((train_data, test_data), placement.whole)
    train_epoch, epoch_compile = timing.compile(
        sharding.train_epoch,
        states,
        train_data,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        batch_size=batch_size,
        keys=placed_keys,
        placement=placement,
    )
    evaluate = partial(
        timing.compile,
        sharding.evaluate,
        states.params,
        metrics_fn=metrics_fn,
        placement=placement,
    )
    evaluate_train, train_compile = evaluate(train_data)
    evaluate_test, test_compile = evaluate(test_data)
    with (
        report.progress(label, epochs, done=len(rows)) as done,
        resume.postponed() as stop,
    ):
        for epoch in range(len(rows) + 1, epochs + 1):
            (states, trained), elapsed = timing.timed(
                lambda states=states: train_epoch(states, train_data, keys=placed_keys)
            )
            tested = evaluate_test(states.params, test_data)
            row = {"seconds": np.asarray(elapsed)}
            row |= {f"train_{name}": np.asarray(v) for name, v in trained.items()}
            row |= {f"test_{name}": np.asarray(v) for name, v in tested.items()}
            report.metrics(run=label, epoch=epoch, **row)
            done(", ".join(_words(n, row[n]) for n in row if n != "seconds"))
            _stop_if_lost(label, epoch, row["train_loss"])
            rows.append(row)
            every = report.save_every
            number = sharding.agree(stop[0] if stop else 0)
            if number or (every and (epoch % every == 0 or epoch == epochs)):
                whole = sharding.gather(states, placement)
                if report.rank == 0:
                    kept = {"states": whole, "keys": keys, "history": _columns(rows)}
                    checkpoints.save(epoch, kept)
            if number:
                sharding.leave()
                raise Interrupted(_how_to_go_on(report, epoch), number)
    final = evaluate_train(states.params, train_data)
    history = _columns(rows)
    seconds = history.pop("seconds")
    return Fit(
        sharding.gather(states, placement),
        history,
        {name: np.asarray(values) for name, values in final.items()},
        epoch_compile + train_compile + test_compile,
        float(np.median(seconds)),
    )


def _open(report: Report, label: str) -> Any:
    """Open the checkpoints: process 0 alone, as it clears what a killed run left."""
    folder = report.checkpoints / re.sub(r"[^\w.]+", "-", label)
    if report.rank:
        sharding.agree(0)
        return storage.Checkpoints(folder)
    checkpoints = storage.Checkpoints(folder)
    sharding.agree(0)
    return checkpoints


def _how_to_go_on(report: Report, epoch: int) -> str:
    if report.rank:
        return f"interrupted after epoch {epoch}; process 0 says how to go on"
    command = resume.command(report.name, report.folder)
    return f"interrupted and saved after epoch {epoch}; go on with: {command}"


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:

    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _words(name: str, values: Any) -> str:
    return f"{name.replace('_', ' ')} {values.mean():.4f}"


def _stop_if_lost(label: str, epoch: int, losses: Any) -> None:

    lost = np.flatnonzero(~np.isfinite(losses))
    if lost.size:
        which = f" of member {lost[0]}" if losses.size > 1 else ""
        raise Failed(
            f"{label}: the training loss{which} is {losses[lost[0]]} in epoch {epoch}; "
            "a lower --learning-rate may hold it (metrics.jsonl has the epochs so far)"
        )
