"""Seconds to a test accuracy of 88% on Fashion-MNIST, with a perceptron.

A run is everything from drawing the parameters to the test accuracy, with the images in
memory and the program compiled. The recipe was chosen on 10,000 training images that
were set aside; here it trains on all of them. Accuracy is a mean over many seeds; the
time is the median of runs that take turns with the same recipe in PyTorch.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax import training
from ch4jax.data import fashion_mnist
from ch4jax.statistics import mean_interval
from ch4jax.training import Data
from experiments.common import cli, one_cycle, roofline, timing
from experiments.common.console import say
from experiments.common.errors import UsageError
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.run_folder import RunFolder


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the measurement."""

    keep_programs: ClassVar[bool] = False

    rounds: cli.Count = 5
    """Rounds that are timed, after one that warms up."""
    seeds: cli.Count = 50
    """Runs whose accuracies are averaged."""
    data: cli.Source = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""

    def __post_init__(self) -> None:
        """Check that there is an interval."""
        super().__post_init__()
        if self.seeds < 2:
            raise UsageError(f"--seeds must be at least 2, got {self.seeds}")


@jax.jit
def train(train_data: Data, test_data: Data, *, key: PRNGKeyArray) -> Float[Array, ""]:
    """Return the test accuracy of a run."""
    network = flax_network((one_cycle.HIDDEN,), (0.0,), None)
    init_key, train_key = jax.random.split(key)
    params, _ = training.fit(
        network.init(init_key),
        train_data,
        metrics_fn=metrics_fn(network),
        optimizer=optax.adam(one_cycle.schedule(len(train_data[1]), jnp.minimum)),
        epochs=one_cycle.EPOCHS,
        batch_size=one_cycle.BATCH_SIZE,
        key=train_key,
    )
    evaluate = partial(training.evaluate, metrics_fn=metrics_fn(network))
    return evaluate(params, test_data)["accuracy"]


def run(config: Config) -> None:
    """Average the accuracies, time the runs, print and write both."""
    data = fashion_mnist.load(config.data)
    folder = RunFolder.create("time_to_accuracy", config)
    arrays = (
        (jnp.asarray(data.train_images), jnp.asarray(data.train_labels)),
        (jnp.asarray(data.test_images), jnp.asarray(data.test_labels)),
    )
    say(f"{config.seeds} seeds, then {config.rounds} rounds")
    key, seeds_key = jax.random.split(jax.random.key(config.seed))
    program, compile_seconds = timing.compile(train, *arrays, key=key)
    works: dict[str, Callable[[], Any]] = {"JAX": partial(program, *arrays, key=key)}
    seeds = jax.random.split(seeds_key, config.seeds)
    accuracies = {"JAX": [float(program(*arrays, key=seed)) for seed in seeds]}
    if importlib.util.find_spec("torch"):
        from experiments.pytorch.one_cycle import Runs

        # Small products are often faster on one thread.
        for threads in sorted({1, roofline.threads()}):
            name = f"PyTorch, threads: {threads}"
            works[name] = runs = Runs(data, threads)
            accuracies[name] = runs.accuracies
    timings = timing.interleave(works, rounds=config.rounds)
    entries = [
        {
            "name": name,
            "accuracy": mean_interval(np.asarray(accuracies[name])),
            "seeds": len(accuracies[name]),
            **seconds._asdict(),
        }
        for name, seconds in timings.items()
    ]
    disturbed = timing.disturbances(timings, floors={})
    warning = f" ({timing.NOT_QUIET})" if disturbed else ""
    folder.table(
        ["", "accuracy", "95%", "seeds", "median (s)", "fastest"],
        [
            [
                e["name"],
                f"{e['accuracy'].estimate:.4f}",
                f"{e['accuracy'].low:.4f} to {e['accuracy'].high:.4f}",
                str(e["seeds"]),
                f"{e['median']:.2f}",
                f"{e['fastest']:.2f}",
            ]
            for e in entries
        ],
        title=f"{data.name}, {len(data.train_labels):,} training images{warning}",
    )
    say(f"compiling, once: {compile_seconds:.1f} s")
    if disturbed:
        folder.table([timing.NOT_QUIET, "why"], [*disturbed.items()], num_texts=2)
    reached = [
        f"{e['accuracy'].estimate:.2%} after {e['median']:.2f} s ({e['name']})"
        for e in entries
    ]
    folder.finish(
        {
            "data": data.name,
            "runs": entries,
            "threads": roofline.threads(),
            "quiet": not disturbed,
            "seconds": {"compile": compile_seconds, "total": folder.seconds()},
        },
        headline=f"Mean test accuracy: {', '.join(reached)}{warning}.",
    )


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
