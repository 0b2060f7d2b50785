"""Linear regression on too few rows, with and without weight decay (D2L 3.7).

Without flags: the book's 20 training rows of 200 inputs, lambda 0 and 3, from scratch
and with Flax and Optax; then 64 lambdas times 32 seeds, all trained in one program;
and the same grid for the penalty inside Adam and for AdamW.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ch4jax.weight_decay import concise_settings
from experiments.common import cli, plots
from experiments.common.console import Report
from experiments.common.errors import Failed, UsageError
from experiments.common.weight_decay_runs import (
    MEASURES,
    draw_problem,
    grid_lambdas,
    grid_problems,
    measure,
    train,
    train_grid,
    zero_loss,
)


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; the defaults are the book's."""

    lambd: float = 3.0
    """Coefficient of the penalty that is compared with none."""
    learning_rate: float = 0.003
    """Of SGD, of Adam and of AdamW."""
    epochs: int = 100
    """Passes over the training rows."""
    batch_size: int = 5
    """Rows in a batch."""
    inputs: int = 200
    """Weights to learn."""
    train_rows: int = 20
    """Rows to learn them from."""
    test_rows: int = 100
    """Rows to judge them by."""
    lambdas: int = 64
    """Coefficients in the grid, from 0.001 to 100."""
    seeds: int = 32
    """Runs for each of them: data, weights and batches from SEED, SEED + 1, ..."""

    devices: cli.OptionalInt = None
    """Devices that share the lambdas of a grid; one if not given."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        cli.check_at_least_1("--devices", self.devices)
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
        if hasattr(os, "sysconf"):  # Windows does not say how much there is
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if (needed := memory_needed(self)) > memory:
                raise UsageError(
                    f"--inputs {self.inputs} needs {needed / 1e9:,.0f} GB with so many "
                    "rows, lambdas, seeds and epochs; expected at most the "
                    f"{memory / 1e9:,.0f} GB of this machine"
                )


def memory_needed(config: Config) -> int:
    """Return the bytes of the data, the kernels of a grid and those of each epoch."""
    rows = 2 * config.seeds * (config.train_rows + config.test_rows)  # with copies
    kernels = 4 * config.lambdas * config.seeds  # with gradient and Adam's moments
    return 4 * config.inputs * (rows + kernels + config.epochs)


def run(config: Config, report: Report) -> None:
    """Train the book's runs and the grids, tell, draw, and write the summary."""
    report.begin(config)
    device = jax.devices()[0]
    report.say(f"device: {device.platform} ({device.device_kind})")
    report.say(
        f"data: {config.train_rows} training and {config.test_rows} test rows of "
        f"{config.inputs} inputs; learning rate {config.learning_rate}, "
        f"{config.epochs} epochs, batches of {config.batch_size}\n"
    )
    results = run_book(config, report)
    grids = run_grids(config, report)
    report.finish({**results, "grids": grids, "seconds": report.seconds()})


def run_book(config: Config, report: Report) -> dict[str, Any]:
    """Train without and with the penalty, from scratch and concisely.

    Returns:
      The measures of each finished run; and how far the weights of `mapped` are from
      those of `scratch`, relative to their norm.

    Raises:
      Failed: if a run diverges.
    """
    problem = draw_problem(config, key=jax.random.key(config.seed))
    measure_path = jax.jit(jax.vmap(measure, in_axes=(0, None)))
    results, histories, kernels = [], {}, {}
    for lambd in dict.fromkeys((0.0, config.lambd)):
        for method in ("scratch", "concise", "mapped"):
            last, path = train(config, problem, method, lambd)
            history = jax.device_get(measure_path(path, problem))
            histories[method, lambd] = history
            for epoch in range(config.epochs):
                row = {name: history[name][epoch] for name in MEASURES}
                report.metrics(run=method, lambd=lambd, epoch=epoch + 1, **row)
            final = {name: history[name][-1] for name in MEASURES}
            if not np.isfinite(final["train_loss"]):
                raise Failed(
                    f"{method}, lambda {lambd:g}: the training loss ends as "
                    f"{final['train_loss']}; a lower --learning-rate may hold it"
                )
            results.append({"method": method, "lambd": lambd, **final})
            kernels[method] = last["kernel"]
    show_book(results, report)
    draw_curves(config, histories, report.folder / "curves.png")
    difference = float(
        np.linalg.norm(kernels["mapped"] - kernels["scratch"])
        / np.linalg.norm(kernels["scratch"])
    )
    rate, decay = concise_settings(config.learning_rate, config.lambd)
    report.say(
        "losses are halved squared errors without the penalty; concise minimises the "
        "error without the half,\nand takes the steps of scratch when it is mapped: "
        f"learning rate {rate:g}, weight decay {decay:g} (the weights\ndiffer by "
        f"{difference:.1g} of their norm)\n"
    )
    return {"results": results, "mapped_difference": difference}


def show_book(results: list[dict[str, Any]], report: Report) -> None:
    """Print a line for each of the book's runs."""
    report.table(
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


def run_grids(config: Config, report: Report) -> dict[str, Any]:
    """Train, time, tell and draw the grids; returns times and medians over seeds."""
    lambdas, problems = grid_lambdas(config), grid_problems(config)
    grids, summaries = {}, {}
    for method in ("scratch", "L2 in Adam", "AdamW"):
        grid, seconds = train_grid(config, problems, method)
        medians = {name: np.median(values, axis=1) for name, values in grid.items()}
        grids[method] = grid
        summaries[method] = {"seconds": seconds, "lambdas": lambdas, **medians}
        runs = grid["norm"].size
        lost = (~np.isfinite(grid["norm"])).sum()
        report.say(
            f"{method}: {runs:,} runs in {seconds['run']:.2f} s after "
            f"{seconds['compile']:.1f} s of compiling, "
            f"{1e3 * seconds['run'] / runs:.2g} ms a run; {lost} diverged"
        )
    report.say(
        f"\nw = 0 has an expected test loss of {zero_loss(config):.3g}\n"
        "Adam divides the gradient by its own root mean square, and the gradient of an "
        "L2 penalty with it: no\nweight moves by much more than the learning rate in a "
        "step, however large lambda is. AdamW takes\nlearning rate x lambda of each "
        "weight away beside Adam's step.\n"
        f"With lambda {lambdas[-1]:g} the norm of w ends at "
        f"{summaries['L2 in Adam']['norm'][-1]:.3g} with L2 in Adam, and at "
        f"{summaries['AdamW']['norm'][-1]:.3g} with AdamW.\n"
    )
    draw_grids(config, {"SGD": grids.pop("scratch")}, report.folder / "sweep.png")
    draw_grids(config, grids, report.folder / "adam.png")
    return summaries


def draw_curves(config: Config, histories: dict[Any, Any], path: Path) -> None:
    """Draw both losses against the epoch, without and with the penalty."""
    lambdas = tuple(dict.fromkeys(lambd for _, lambd in histories))
    lines = [
        (method, dashes, split, colour)
        for method, dashes in (("scratch", "-"), ("concise", "--"))
        for split, colour in (("train", plots.COLOURS[0]), ("test", plots.COLOURS[1]))
    ]
    title = f"{config.inputs} weights learnt from {config.train_rows} rows"
    with plots.figure(path, 1, len(lambdas), size=(8.5, 3.4), title=title) as panels:
        for axes, lambd in zip(np.atleast_1d(panels), lambdas, strict=True):
            for method, dashes, split, colour in lines:
                losses = histories[method, lambd][f"{split}_loss"]
                epochs = np.arange(1, config.epochs + 1)
                label = f"{method}, {split}"
                axes.plot(epochs, losses, dashes, color=colour, label=label)
            axes.set(xlabel="epoch", ylabel="halved squared error", yscale="log")
            axes.set_title(f"lambda {lambd:g}", fontsize=10)
            axes.legend()


def draw_grids(config: Config, grids: dict[str, Any], path: Path) -> None:
    """Draw each measure against lambda: the median, and the middle 80% of the seeds."""
    lambdas, zero = grid_lambdas(config), zero_loss(config)
    title = (
        f"After {config.epochs} epochs; losses are halved squared errors; median and "
        f"middle 80% of {config.seeds} seeds"
    )
    with plots.figure(path, 1, 3, size=(8.5, 3.0), title=title) as panels:
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
