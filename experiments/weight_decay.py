"""Linear regression on too few rows, with and without weight decay (D2L 3.7).

Without flags: the book's 20 training rows of 200 inputs, lambda 0 and 3, from scratch
and with Flax and Optax; then 64 lambdas times 32 seeds, all trained in one program;
and the same grid for the penalty inside Adam and for AdamW.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ch4jax.training import sharding
from ch4jax.weight_decay import concise_settings
from experiments.common import cli, linear_problem, plots, timing
from experiments.common.console import say
from experiments.common.errors import Failed, UsageError
from experiments.common.linear_problem import BOOK, Hyperparameters
from experiments.common.run_folder import RunFolder

MEASURES = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "norm": "norm of w",
}


@dataclass(frozen=True)
class Config(cli.DeviceFlags):
    """Flags; the defaults are the book's. `--devices` share the lambdas of a grid."""

    lambd: float = 3.0
    """Coefficient of the penalty that is compared with none."""
    learning_rate: float = BOOK.learning_rate
    """Of SGD, of Adam and of AdamW."""
    epochs: int = BOOK.epochs
    """Passes over the training rows."""
    batch_size: int = BOOK.batch_size
    """Rows in a batch."""
    inputs: int = BOOK.inputs
    """Weights to learn."""
    train_rows: int = BOOK.train_rows
    """Rows to learn them from."""
    test_rows: int = BOOK.test_rows
    """Rows to judge them by."""
    lambdas: int = 64
    """Coefficients in the grid, from 0.001 to 100."""
    seeds: int = 32
    """Runs for each of them: data, weights and batches from SEED, SEED + 1, ..."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        if not 0.0 <= self.lambd < math.inf:
            raise UsageError(f"--lambd must be finite and at least 0, got {self.lambd}")
        cli.check_positive("--learning-rate", self.learning_rate)
        cli.check_at_least_1("--epochs", self.epochs)
        cli.check_at_least_1("--batch-size", self.batch_size)
        cli.check_at_least_1("--inputs", self.inputs)
        cli.check_at_least_1("--train-rows", self.train_rows)
        cli.check_at_least_1("--test-rows", self.test_rows)
        cli.check_at_least_1("--lambdas", self.lambdas)
        cli.check_at_least_1("--seeds", self.seeds)
        if self.batch_size > self.train_rows:
            raise UsageError(
                f"--batch-size must be at most the {self.train_rows:,} training rows, "
                f"got {self.batch_size}"
            )
        if self.lambdas % (self.devices or 1):
            raise UsageError(
                f"--lambdas must be a multiple of the {self.devices} --devices, "
                f"got {self.lambdas}"
            )

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The flags that every run of every grid shares."""
        return Hyperparameters(
            self.learning_rate,
            self.epochs,
            self.batch_size,
            self.inputs,
            self.train_rows,
            self.test_rows,
        )


def run(config: Config) -> None:
    """Train the book's runs and the grids, print, draw, and write the summary."""
    folder = RunFolder.create("weight_decay", config)
    device = jax.devices()[0]
    say(f"device: {device.platform} ({device.device_kind})")
    say(
        f"data: {config.train_rows} training and {config.test_rows} test rows of "
        f"{config.inputs} inputs; learning rate {config.learning_rate}, "
        f"{config.epochs} epochs, batches of {config.batch_size}\n"
    )
    results, difference = run_book(config, folder)
    grids = run_grids(config, folder)
    test_losses = ", ".join(
        f"{entry['test_loss']:.3g} (lambda {entry['lambd']:g})"
        for entry in results
        if entry["method"] == "scratch"
    )
    folder.finish(
        {
            "results": results,
            "mapped_difference": difference,
            "grids": grids,
            "seconds": folder.seconds(),
        },
        headline=f"Test loss: {test_losses}.",
    )


def run_book(config: Config, folder: RunFolder) -> tuple[list[dict[str, Any]], float]:
    """Train without and with the penalty, from scratch and concisely.

    Returns:
      The measures of each finished run; and how far the weights of `mapped` are from
      those of `scratch`, relative to their norm.

    Raises:
      Failed: if a run diverges.
    """
    hyperparameters = config.hyperparameters
    key = jax.random.key(config.seed)
    problem = linear_problem.draw_problem(hyperparameters, key=key)
    measure_path = jax.jit(jax.vmap(linear_problem.measure, in_axes=(0, None)))
    results, histories, kernels = [], {}, {}
    for lambd in dict.fromkeys((0.0, config.lambd)):
        for method in ("scratch", "concise", "mapped"):
            last, path = linear_problem.train(problem, method, lambd, hyperparameters)
            history = jax.device_get(measure_path(path, problem))
            histories[method, lambd] = history
            for epoch in range(config.epochs):
                row = {name: history[name][epoch] for name in MEASURES}
                folder.metrics(run=method, lambd=lambd, epoch=epoch + 1, **row)
            final = {name: history[name][-1] for name in MEASURES}
            if not np.isfinite(final["train_loss"]):
                raise Failed(
                    f"{method}, lambda {lambd:g}: the training loss ends as "
                    f"{final['train_loss']}; try a lower --learning-rate"
                )
            results.append({"method": method, "lambd": lambd, **final})
            kernels[method] = last["kernel"]
    show_book(results, folder)
    draw_curves(config, histories, folder)
    difference = float(
        np.linalg.norm(kernels["mapped"] - kernels["scratch"])
        / np.linalg.norm(kernels["scratch"])
    )
    rate, decay = concise_settings(config.learning_rate, config.lambd)
    say(
        "losses are halved squared errors without the penalty; concise minimises the "
        "error without the half,\nand takes the steps of scratch when it is mapped: "
        f"learning rate {rate:g}, weight decay {decay:g} (the weights\ndiffer by "
        f"{difference:.1g} of their norm)\n"
    )
    return results, difference


def show_book(results: Sequence[Mapping[str, Any]], folder: RunFolder) -> None:
    """Print a line for each of the book's runs."""
    folder.table(
        ["", *MEASURES.values(), "test / training"],
        [
            [
                f"{entry['method']}, lambda {entry['lambd']:g}",
                *(f"{entry[name]:.3g}" for name in MEASURES),
                f"{entry['test_loss'] / entry['train_loss']:.2g}",
            ]
            for entry in results
        ],
    )


def run_grids(config: Config, folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Train and show the grids; returns their times and medians over the seeds."""
    lambdas = linear_problem.grid_lambdas(config.lambdas)
    grids, summaries, rows = {}, {}, []
    for method in ("scratch", "L2 in Adam", "AdamW"):
        grids[method], seconds = train_grid(config, method)
        medians = {name: np.median(v, axis=1) for name, v in grids[method].items()}
        summaries[method] = {"seconds": seconds, "lambdas": lambdas, **medians}
        best = int(medians["test_loss"].argmin())
        norms = grids[method]["norm"]
        rows.append(
            [
                method,
                f"{lambdas[best]:.3g}",
                f"{medians['test_loss'][best]:.3g}",
                f"{medians['norm'][-1]:.3g}",
                f"{(~np.isfinite(norms)).sum()} of {norms.size:,}",
                f"{seconds['compile']:.1f} s",
                f"{seconds['run']:.2f} s",
            ]
        )
    norm = f"norm at {lambdas[-1]:g}"
    folder.table(
        ["", "best lambda", "its test loss", norm, "diverged", "compile", "run"],
        rows,
        title=f"grids of {config.lambdas} lambdas; medians of {config.seeds} seeds",
    )
    say(
        "w = 0 has an expected test loss of "
        f"{linear_problem.zero_loss(config.hyperparameters):.3g}\n"
        "Adam divides the gradient by its own root mean square, and the gradient of an "
        "L2 penalty with it: no\nweight moves by much more than the learning rate in a "
        "step, however large lambda is. AdamW takes\nlearning rate x lambda of each "
        "weight away beside Adam's step.\n"
    )
    draw_grids(
        "sweep.png",
        {"SGD": grids.pop("scratch")},
        config,
        folder,
        caption="The larger lambda is, the smaller the weights; the dotted line is "
        "what weights of zero would give.",
    )
    draw_grids(
        "adam.png",
        grids,
        config,
        folder,
        caption="Adam rescales the gradient of an L2 penalty; it does not rescale "
        "the decay of AdamW.",
    )
    return summaries


def train_grid(
    config: Config, method: str
) -> tuple[dict[str, Float[np.ndarray, "lambdas seeds"]], dict[str, float]]:
    """Train on every problem with every lambda, in one compiled program.

    Each device takes lambdas of its own; nothing passes between them.

    Returns:
      The measures of the finished runs, and the seconds that it took to `compile` and
      to `run`.
    """
    mesh, hyperparameters = config.mesh(), config.hyperparameters
    lambdas = jnp.asarray(linear_problem.grid_lambdas(config.lambdas))
    lambdas = sharding.place(lambdas, sharding.along(mesh, 0))
    problems = linear_problem.grid_problems(config.seed, config.seeds, hyperparameters)
    problems = sharding.place(problems, sharding.whole(mesh))
    program = linear_problem.grid_program(method, hyperparameters)
    compiled, compile_seconds = timing.compile(program, problems, lambdas)
    measures, run_seconds = timing.timed(lambda: compiled(problems, lambdas))
    return jax.device_get(measures), {"compile": compile_seconds, "run": run_seconds}


def draw_curves(
    config: Config,
    histories: Mapping[tuple[str, float], Mapping[str, Float[np.ndarray, " epochs"]]],
    folder: RunFolder,
) -> None:
    """Draw both losses against the epoch, without and with the penalty."""
    lambdas = tuple(dict.fromkeys(lambd for _, lambd in histories))
    epochs = np.arange(1, config.epochs + 1)
    with folder.figure(
        "curves.png",
        1,
        len(lambdas),
        size=(8.5, 3.4),
        title=f"{config.inputs} weights learnt from {config.train_rows} rows",
        caption="How far the test loss stays above the training loss for each lambda.",
        alt="Line charts of the halved squared error against the epoch on a "
        "logarithmic scale, one chart for each lambda: training and test loss, from "
        "scratch solid and concise dashed.",
    ) as panels:
        for axes, lambd in zip(np.atleast_1d(panels), lambdas, strict=True):
            for method, dashes in (("scratch", "-"), ("concise", "--")):
                for split, colour in zip(("train", "test"), plots.COLOURS, strict=False):
                    losses = histories[method, lambd][f"{split}_loss"]
                    label = f"{method}, {split}"
                    axes.plot(epochs, losses, dashes, color=colour, label=label)
            axes.set(xlabel="epoch", ylabel="halved squared error", yscale="log")
            axes.set_title(f"lambda {lambd:g}", fontsize=10)
            axes.legend()


def draw_grids(
    file: str,
    grids: Mapping[str, Mapping[str, Float[np.ndarray, "lambdas seeds"]]],
    config: Config,
    folder: RunFolder,
    *,
    caption: str,
) -> None:
    """Draw each measure against lambda: the median, and the middle 80% of the seeds."""
    lambdas = linear_problem.grid_lambdas(config.lambdas)
    zero = linear_problem.zero_loss(config.hyperparameters)
    with folder.figure(
        file,
        1,
        3,
        size=(8.5, 3.0),
        title=f"After {config.epochs} epochs; losses are halved squared errors; median "
        f"and middle 80% of {config.seeds} seeds",
        caption=caption,
        alt="Three line charts against lambda on logarithmic axes: training loss, test "
        f"loss and norm of the weights, one colour for each of {', '.join(grids)}: the "
        "median over the seeds, with a band for the middle 80%.",
    ) as panels:
        for axes, (name, words) in zip(panels, MEASURES.items(), strict=True):
            for colour, (label, grid) in zip(
                plots.COLOURS, grids.items(), strict=False
            ):
                low, median, high = np.quantile(grid[name], (0.1, 0.5, 0.9), axis=1)
                axes.plot(lambdas, median, color=colour, label=label)
                axes.fill_between(lambdas, low, high, color=colour, alpha=0.2, lw=0)
            axes.set(xlabel="lambda", ylabel=words, xscale="log", yscale="log")
        _, test, norm = panels
        test.axhline(zero, color="0.3", ls=":")
        test.annotate("w = 0", (lambdas[0], zero), (0, 3), textcoords="offset points")
        norm.legend(loc="lower left")


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
