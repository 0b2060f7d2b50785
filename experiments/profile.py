"""Where the time of a training epoch goes, part by part.

Each part of the dropout MLP's epoch runs alone, as often as in the epoch and at its
own shapes, in turn with the others and with the whole. The parts may add up to more
than the whole, which runs some of them beside each other. Next to the epoch stand the
same without dropout, the evaluations, and what comes before the first step.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import optax
from jax import numpy as jnp

from ch4jax import training
from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import to_float
from experiments.benchmark.rows import HIDDEN, LEARNING_RATE, RATES, STD
from experiments.common import cli, plots, timing
from experiments.common import roofline as floors
from experiments.common.console import Report
from experiments.common.networks import flax_network, metrics_fn

WHOLE, PLAIN = "whole epoch", "whole epoch, no dropout"


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the measurement."""

    keep_programs: ClassVar[bool] = False

    rounds: int = 5
    """Rounds that are counted, after one that warms up."""
    data: str = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


def parts(data: Any) -> dict[str, Callable[[], Any]]:
    """Return the parts of an epoch; each does its work for every step."""
    images, labels = data.train_images, data.train_labels
    size = floors.BATCH_SIZE
    deal = jax.jit(lambda key: training.batch_rows(len(images), size, key=key))
    rows, _ = deal(jax.random.key(0))
    params = flax_network(HIDDEN, RATES, STD).init(jax.random.key(1))
    optimizer = optax.sgd(LEARNING_RATE)

    def every_step(step: Callable[..., Any], start: Any, *data: Any) -> Any:
        """Carry the result of `step(carry, i, *data)` through the steps of an epoch."""

        @jax.jit
        def scanned(start: Any, numbers: Any, *data: Any) -> Any:
            def body(carry: Any, i: Any) -> Any:
                return step(carry, i, *data), None

            return jax.lax.scan(body, start, numbers)[0]

        numbers = jnp.arange(len(rows))
        return lambda: scanned(start, numbers, *data)

    def gather(_: Any, i: Any, rows: Any, images: Any) -> Any:
        return to_float(images[rows[i]])

    def masks(_: Any, i: Any) -> Any:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), i), len(HIDDEN))
        return [
            jax.random.bernoulli(k, 1 - rate, (size, width))
            for k, rate, width in zip(keys, RATES, HIDDEN, strict=True)
        ]

    def loss(logits: Any, i: Any, rows: Any, labels: Any) -> Any:
        classes = labels[rows[i]]

        def mean(logits: Any) -> Any:
            return training.classification_metrics(logits, classes)["loss"].mean()

        return jax.grad(mean)(logits)

    def update(params: Any, _: Any, grads: Any) -> Any:
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    return {
        "matrix products": floors.matrix_products(len(images)),
        "random masks": every_step(masks, masks(None, 0)),
        "images gathered, made floats": every_step(
            gather, gather(None, 0, rows, images), rows, images
        ),
        "parameters updated": every_step(update, params, params),
        "softmax, its loss and gradient": every_step(
            loss, jnp.zeros((size, 10)), rows, labels
        ),
        "rows shuffled": lambda: deal(jax.random.key(0)),
    }


def wholes(data: Any) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return the epochs and the evaluations, and the seconds to compile WHOLE."""
    key, optimizer = jax.random.key(0), optax.sgd(LEARNING_RATE)
    train, test = data[:2], data[2:4]
    start = training.init_state(flax_network(HIDDEN, RATES, STD).init(key), optimizer)

    def epoch(rates: tuple[float, ...]) -> tuple[Callable[[], Any], float]:
        program, seconds = timing.compile(
            training.train_epoch,
            start,
            train,
            metrics_fn=metrics_fn(flax_network(HIDDEN, rates, STD)),
            optimizer=optimizer,
            batch_size=floors.BATCH_SIZE,
            key=jax.random.key(1),
        )
        return lambda: program(start, train, key=jax.random.key(1)), seconds

    metrics = metrics_fn(flax_network(HIDDEN, RATES, STD))
    works: dict[str, Callable[[], Any]] = {}
    works[WHOLE], seconds = epoch(RATES)
    works[PLAIN], _ = epoch((0.0,) * len(RATES))
    for name, rows in (("training", train), ("test", test)):
        works[f"evaluation, {name} set"] = lambda rows=rows: training.evaluate(
            start.params, rows, metrics_fn=metrics
        )
    return works, seconds


def run(config: Config, report: Report) -> None:
    """Time what comes before, the parts and the whole; print, draw, write."""
    data, reading = timing.timed(lambda: fashion_mnist.load(config.data))
    report.begin(config)
    command = [sys.executable, "-c", "import ch4jax.training"]
    _, importing = timing.timed(lambda: subprocess.run(command, check=True))
    data, copying = timing.timed(data.on_device)
    works, compiling = wholes(data)
    timings = timing.interleave(works | parts(data), rounds=config.rounds)
    seconds = {name: found.median for name, found in timings.items()}
    whole = {name: seconds.pop(name) for name in works}
    epoch = whole[WHOLE]
    report.table(
        ["alone, for every step", "seconds", "of the epoch"],
        [[name, f"{s:.4f}", f"{s / epoch:.0%}"] for name, s in seconds.items()],
    )
    before = {
        "Python, JAX, Flax imported": importing,
        "images read and checked": reading,
        "images copied to the device": copying,
        "epoch traced and compiled": compiling,
    }
    report.table(
        ["", "seconds"], [[name, f"{s:.3f}"] for name, s in (whole | before).items()]
    )
    draw(seconds, epoch, len(data.train_images), report)
    report.finish(
        {
            "data": data.name,
            "parts": seconds,
            "whole": whole,
            "before": before,
            "seconds": report.seconds(),
        }
    )


def draw(parts: dict[str, float], epoch: float, images: int, report: Report) -> None:
    """Draw a bar for each part."""
    with plots.figure(
        report.folder / "profile.png",
        size=(8.5, 2.8),
        title=f"an epoch of {images:,} images with dropout takes {epoch:.3f} s; "
        "its parts alone take",
    ) as axes:
        names, seconds = list(parts), list(parts.values())
        bars = axes.barh(names, seconds, color=plots.COLOURS[0])
        axes.bar_label(bars, [f"{s / epoch:.0%}" for s in seconds], padding=4)
        axes.set(xlabel="seconds")
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
