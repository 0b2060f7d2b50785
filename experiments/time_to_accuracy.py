"""Seconds to a test accuracy of 88% and of 90% on Fashion-MNIST, with a perceptron.

A run is everything from drawing the parameters to the test accuracy, with the
standardised images in memory and the program compiled. The recipes were chosen by their
accuracy on 10,000 training images that were set aside; here they train on all 60,000.
Accuracy is a mean over many seeds; the time is the median of runs that take turns with
the same recipe in PyTorch.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import training
from ch4jax.data import fashion_mnist
from ch4jax.dropout import init_mlp
from ch4jax.statistics import mean_interval
from ch4jax.training import Data, Metrics
from experiments.common import cli, one_cycle, roofline, timing
from experiments.common.console import say
from experiments.common.errors import UsageError
from experiments.common.one_cycle import Recipe
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


def metrics_fn(
    params: PyTree, x: Array, labels: Array, *, key: PRNGKeyArray | None
) -> Metrics:
    """Return the loss with smoothed labels, and the accuracy, of a GELU perceptron."""
    *hidden, output = params
    for layer in hidden:
        x = jax.nn.gelu(x @ layer["kernel"] + layer["bias"][None])
    logits = x @ output["kernel"] + output["bias"][None]
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, 10), one_cycle.SMOOTHING)
    return {
        "loss": optax.softmax_cross_entropy(logits, smooth),
        "accuracy": logits.argmax(axis=1) == labels,
    }


@partial(jax.jit, static_argnames="recipe")
def train(
    train_data: Data, test_data: Data, *, recipe: Recipe, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Return the test accuracy of a run."""
    init_key, train_key = jax.random.split(key)
    params, _ = training.fit(
        init_mlp(recipe.sizes, std=None, key=init_key),
        train_data,
        metrics_fn=metrics_fn,
        optimizer=optax.adam(recipe.schedule(len(train_data[1]), jnp.minimum)),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        key=train_key,
    )
    return training.evaluate(params, test_data, metrics_fn=metrics_fn)["accuracy"]


def run(config: Config) -> None:
    """Average the accuracies, time the runs, print and write both."""
    data = fashion_mnist.load(config.data)
    folder = RunFolder.create("time_to_accuracy", config)
    rows = one_cycle.standardise(data)
    arrays = tuple(tuple(map(jnp.asarray, each)) for each in rows)
    key, seeds_key = jax.random.split(jax.random.key(config.seed))
    seeds = jax.random.split(seeds_key, config.seeds)
    works: dict[str, Callable[[], Any]] = {}
    accuracies, compiling = {}, {}
    for target, recipe in one_cycle.RECIPES.items():
        say(f"{target}: {config.seeds} seeds")
        name = f"{target}, JAX"
        program, compiling[name] = timing.compile(
            train, *arrays, recipe=recipe, key=key
        )
        works[name] = partial(program, *arrays, key=key)
        accuracies[name] = [float(program(*arrays, key=seed)) for seed in seeds]
        if importlib.util.find_spec("torch"):
            from experiments.pytorch.one_cycle import Runs

            # Small products are often faster on one thread.
            for threads in sorted({1, roofline.threads()}):
                name = f"{target}, PyTorch, threads: {threads}"
                works[name] = runs = Runs(*rows, recipe, threads)
                accuracies[name] = runs.accuracies
    say(f"{config.rounds} rounds")
    timings = timing.interleave(works, rounds=config.rounds)
    entries = [
        {
            "name": name,
            "accuracy": mean_interval(np.asarray(accuracies[name])),
            "seeds": len(accuracies[name]),
            "compile": compiling.get(name),
            **seconds._asdict(),
        }
        for name, seconds in timings.items()
    ]
    disturbed = timing.disturbances(timings, floors={})
    warning = f" ({timing.NOT_QUIET})" if disturbed else ""
    operations = {
        target: roofline.floating_point_operations(
            len(data.train_labels) * recipe.epochs, tuple(pairwise(recipe.sizes))
        )
        for target, recipe in one_cycle.RECIPES.items()
    }
    folder.table(
        ["recipe", "hidden", "batch", "epochs", "Adam's peak", "GFLOP of products"],
        [
            [
                target,
                "-".join(map(str, recipe.hidden)),
                str(recipe.batch_size),
                str(recipe.epochs),
                str(recipe.learning_rate),
                f"{operations[target] / 1e9:,.0f}",
            ]
            for target, recipe in one_cycle.RECIPES.items()
        ],
    )
    folder.table(
        ["", "accuracy", "95%", "seeds", "median (s)", "fastest", "compiling"],
        [
            [
                e["name"],
                f"{e['accuracy'].estimate:.4f}",
                f"{e['accuracy'].low:.4f} to {e['accuracy'].high:.4f}",
                str(e["seeds"]),
                f"{e['median']:.2f}",
                f"{e['fastest']:.2f}",
                f"{e['compile']:.1f}" if e["compile"] else "",
            ]
            for e in entries
        ],
        title=f"{data.name}, {len(data.train_labels):,} training images{warning}",
    )
    if disturbed:
        folder.table([timing.NOT_QUIET, "why"], [*disturbed.items()], num_texts=2)
    reached = [
        f"{e['accuracy'].estimate:.2%} after {e['median']:.2f} s ({e['name']})"
        for e in entries
    ]
    folder.finish(
        {
            "data": data.name,
            "operations": operations,
            "runs": entries,
            "threads": roofline.threads(),
            "quiet": not disturbed,
            "seconds": {"total": folder.seconds()},
        },
        headline=f"Mean test accuracy: {', '.join(reached)}{warning}.",
    )


if __name__ == "__main__":
    cli.main(Config, run)
