"""The loop over epochs: train, evaluate, log, check, save."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

from ch4jax import storage
from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.errors import Mismatch
from ch4jax.training import Metrics, MetricsFn, TrainState, population, sharding
from experiments.common import console, distributed, resume, signals, timing
from experiments.common.cli import TrainingFlags
from experiments.common.errors import Failed, Interrupted
from experiments.common.run_folder import RunFolder

Row = dict[str, np.ndarray]


class Trained(NamedTuple):
    """The result of training.

    Attributes:
      states: of the members, after the last epoch, whole and on one device.
      history: `train_*` and `test_*` of each metric, shape (epochs, members). The
        training metrics are running means, taken while the parameters changed and
        with whatever is random in training.
      final: each metric on the training data after the last epoch, nothing random,
        shape (members,).
      compile_seconds: tracing, and compiling or reading what an earlier run compiled,
        for training and evaluation together.
      epoch_seconds: median over the epochs, without evaluation.
    """

    states: TrainState
    history: dict[str, Float[np.ndarray, "epochs members"]]
    final: dict[str, Float[np.ndarray, " members"]]
    compile_seconds: float
    epoch_seconds: float


def train(
    label: str,
    init: Callable[[Key[Array, " members"]], PyTree],
    data: FashionMNIST,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    flags: TrainingFlags,
    folder: RunFolder,
    seed_keys: Key[Array, " members"],
) -> Trained:
    """Train a population for some epochs, and evaluate it after each.

    It is spread over the devices that `flags` name, and those of other processes. Every
    epoch is printed and appended to `metrics.jsonl` under its `label`. If `folder` has
    checkpoints of that label, training resumes from the newest. Each seed key is split
    in two: `init` makes parameters of one, and the other is for training.

    Raises:
      Interrupted: after Ctrl-C or SIGTERM, once the epoch is finished and saved.
      Failed: if the training loss of a member is not finite; the epochs so far
        stay in `metrics.jsonl`.
    """
    mesh = flags.mesh()
    members_divide = len(seed_keys) % mesh.size == 0
    if mesh.size > 1:
        what = "members" if members_divide else "the rows of each batch"
        console.say(f"{label}: {what} spread over {mesh.size} devices")
    if not members_divide:
        metrics_fn = sharding.by_rows(metrics_fn, mesh)
    init_keys, keys = jax.vmap(jax.random.split, out_axes=1)(seed_keys)
    states = population.init_states(init(init_keys), optimizer)
    everywhere = sharding.whole(mesh)
    placement = sharding.along(mesh, 0) if members_divide else everywhere

    name = re.sub(r"[^\w.]+", "-", label)
    checkpoints = storage.Checkpoints(folder.checkpoints / name)
    rows: list[Row] = []
    if checkpoints.steps():
        like = {"states": states, "keys": keys, "history": ..., "label": ...}
        with signals.postponed():
            epoch, saved = checkpoints.restore(like)
        if saved["label"] != label:
            raise Mismatch(
                f"{checkpoints.directory} is of {saved['label']}, not of {label}"
            )
        states, keys, columns = saved["states"], saved["keys"], saved["history"]
        rows = [{name: v[i] for name, v in columns.items()} for i in range(epoch)]
    folder.continue_from(
        [{"run": label, "epoch": i + 1, **row} for i, row in enumerate(rows)]
    )
    states, placed_keys = sharding.place((states, keys), placement)
    train_data, test_data = sharding.place((data.train, data.test), everywhere)

    train_epoch, train_compile = timing.compile(
        population.train_epoch,
        states,
        train_data,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        batch_size=batch_size,
        group=population.group_size(states.params, jax.default_backend())
        if mesh.size == 1
        else None,
        keys=placed_keys,
    )
    (evaluate_train, evaluate_compile), (evaluate_test, test_compile) = (
        timing.compile(population.evaluate, states.params, data, metrics_fn=metrics_fn)
        for data in (train_data, test_data)
    )
    with (
        console.progress(label, epochs, done=len(rows)) as done,
        signals.postponed() as received,
    ):
        for epoch in range(len(rows) + 1, epochs + 1):
            (states, trained), seconds = timing.timed(
                lambda states=states: train_epoch(states, train_data, keys=placed_keys)
            )
            tested = evaluate_test(states.params, test_data)
            row = {"seconds": np.asarray(seconds)}
            row |= _arrays("train_", sharding.gather(trained, mesh))
            row |= _arrays("test_", sharding.gather(tested, mesh))
            rows.append(row)
            folder.metrics(run=label, epoch=epoch, **row)
            # Not the training accuracy: with masks, it is another than that of tables.
            shown = [name for name in row if name not in ("seconds", "train_accuracy")]
            values = [f"{name} {row[name].mean():.3g}" for name in shown]
            words = ", ".join(values).replace("train_", "").replace("accuracy", "acc.")
            done(words.replace("_", " "))
            _check_finite(label, epoch, row["train_loss"])

            stop = distributed.agree(received[0] if received else 0)
            every = flags.save_every
            # The last too: a signal may arrive while the next network is trained.
            if stop or epoch == epochs or (every and epoch % every == 0):
                whole = sharding.gather(states, mesh)
                if jax.process_index() == 0:
                    saved = {"states": whole, "keys": keys, "label": label}
                    checkpoints.save(epoch, saved | {"history": _columns(rows)})
            if stop:
                distributed.leave()
                again = resume.command(folder.name, folder.path)
                raise Interrupted(
                    f"interrupted and saved after epoch {epoch}; resume by: {again}"
                    if jax.process_index() == 0
                    else f"interrupted after epoch {epoch}",
                    stop,
                )
    final = evaluate_train(states.params, train_data)
    history = _columns(rows)
    seconds = history.pop("seconds")
    return Trained(
        sharding.gather(states, mesh),
        history,
        _arrays("", sharding.gather(final, mesh)),
        train_compile + evaluate_compile + test_compile,
        float(np.median(seconds)),
    )


def _arrays(prefix: str, metrics: Metrics) -> Row:
    return {f"{prefix}{name}": np.asarray(values) for name, values in metrics.items()}


def _columns(rows: Sequence[Row]) -> Row:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _check_finite(label: str, epoch: int, losses: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        which = f" of member {bad[0]}" if losses.size > 1 else ""
        raise Failed(
            f"{label}: the training loss{which} is {losses[bad[0]]} in epoch {epoch}; "
            "a lower --learning-rate may help"
        )
