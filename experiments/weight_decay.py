"""Linear regression on too few rows, with and without weight decay (D2L 3.7).

Without flags: the book's 20 training rows of 200 inputs, lambda 0 and 3, from scratch
and with Flax and Optax; then 64 lambdas times 32 seeds, all trained in one program;
and the same grid for the penalty inside Adam and for AdamW.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from experiments.common.run_folder import RunFolder

LABELS = {"train_loss": "training loss", "test_loss": "test loss", "norm": "norm of w"}
Measures = Mapping[str, Float[np.ndarray, "..."]]  # names as in LABELS


@dataclass(frozen=True)
class Config(linear_problem.Hyperparameters, cli.DeviceFlags):
    """Flags; the defaults are the book's. `--devices` share the lambdas of a grid."""

    lambd: cli.From0 = 3.0
    """Coefficient of the penalty that is compared with none."""
    lambdas: cli.Count = 64
    """Coefficients in the grid, from 0.001 to 100."""
    seeds: cli.Count = 32
    """Runs for each of them: data, weights and batches from SEED, SEED + 1, ..."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        cli.check_batch_size(self.batch_size, self.train_rows, "training rows")
        if self.lambdas % (self.devices or 1):
            raise UsageError(
                f"--lambdas must be a multiple of the {self.devices} --devices, "
                f"got {self.lambdas}"
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
    summary = run_book(config, folder)
    summary["grids"] = run_grids(config, folder)
    grid = summary["grids"]["scratch"]
    lambdas, losses = grid["lambdas"], grid["test_loss"]
    best = np.nanargmin(losses)
    folder.finish(
        summary,
        headline=f"Median test loss of {config.seeds} draws: {losses[0]:.3g} at lambda "
        f"{lambdas[0]:.3g}, {losses[best]:.3g} at {lambdas[best]:.3g}, the best.",
    )


def run_book(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Train without and with the penalty, from scratch and concisely.

    Returns:
      The measures of each finished run; and how far the weights of `mapped` are from
      those of `scratch`, relative to their norm.

    Raises:
      Failed: if a run diverges.
    """
    problem = linear_problem.draw_problem(config, key=jax.random.key(config.seed))
    train = jax.jit(linear_problem.train, static_argnames=("method", "config"))
    measure_path = jax.jit(jax.vmap(linear_problem.measure, in_axes=(0, None)))
    results, histories, kernels = [], {}, {}
    for lambd in dict.fromkeys((0.0, config.lambd)):
        for method in ("scratch", "concise", "mapped"):
            last, path = train(problem, method, lambd, config)
            history = jax.device_get(measure_path(path, problem))
            measures = {}
            for i in range(config.epochs):
                measures = {name: history[name][i] for name in LABELS}
                folder.metrics(run=method, lambd=lambd, epoch=i + 1, **measures)
            if not np.isfinite(loss := measures["train_loss"]):
                raise Failed(
                    f"{method}, lambda {lambd:g}: the training loss ends as {loss}; "
                    "try a lower --learning-rate"
                )
            entry = {"method": method, "lambd": lambd, **measures}
            if method == "concise":  # MSELoss, the book's unit, has no half
                entry |= {
                    f"{split}_mse": 2 * entry[f"{split}_loss"]
                    for split in ("train", "test")
                }
            results.append(entry)
            histories[lambd, method], kernels[method] = history, last["kernel"]
    folder.table(
        ["", *LABELS.values(), "test / train", "train MSE", "test MSE"],
        [
            [
                f"{entry['method']}, lambda {entry['lambd']:g}",
                *(f"{entry[name]:.3g}" for name in LABELS),
                f"{entry['test_loss'] / entry['train_loss']:.2g}",
                *(
                    f"{entry[name]:.3g}" if name in entry else "-"
                    for name in ("train_mse", "test_mse")
                ),
            ]
            for entry in results
        ],
    )
    draw_curves(histories, config, folder)
    difference = np.linalg.norm(kernels["mapped"] - kernels["scratch"])
    difference = float(difference / np.linalg.norm(kernels["scratch"]))
    rate, decay = concise_settings(config.learning_rate, config.lambd)
    say(
        "Losses are halved squared errors without the penalty; MSE is the book's unit "
        "for the concise version, without the half. scratch starts with a bias of 0, "
        "concise from N(0, 1); mapped starts as scratch does and takes its steps: "
        f"learning rate {rate:g}, weight decay {decay:g} (the weights differ by "
        f"{difference:.1g} of their norm).\n"
    )
    return {"results": results, "mapped_difference": difference}


def run_grids(config: Config, folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Train a grid by each method, in one program; show them.

    Each device trains its own lambdas; nothing passes between them.

    Returns:
      The seconds of each grid, and its medians over the seeds.
    """
    mesh = config.mesh()
    lambdas = linear_problem.grid_lambdas(config.lambdas)
    larger = replace(config, true_weight=10 * config.true_weight)
    large = f"scratch, true w {larger.true_weight:g}"
    settings = dict.fromkeys(("scratch", large, "L2 in Adam", "AdamW"), config)
    grids, summaries, rows = {}, {}, []
    for label, setting in (settings | {large: larger}).items():
        problems = linear_problem.grid_problems(config.seed, config.seeds, setting)
        placed = (
            sharding.place(problems, sharding.whole(mesh)),
            sharding.place(jnp.asarray(lambdas), sharding.along(mesh, 0)),
        )
        method = "scratch" if label == large else label
        program = linear_problem.grid_program(method, setting)
        compiled, compile_seconds = timing.compile(program, *placed)
        measures, run_seconds = timing.timed(partial(compiled, *placed))
        grids[label] = grid = jax.device_get(measures)
        medians = {name: np.median(values, axis=1) for name, values in grid.items()}
        seconds = {"compile": compile_seconds, "run": run_seconds}
        summaries[label] = {"seconds": seconds, "lambdas": lambdas, **medians}
        best = np.nan_to_num(medians["test_loss"], nan=np.inf).argmin()
        numbers = lambdas[best], medians["test_loss"][best], medians["norm"][-1]
        cells = [f"{number:.3g}" for number in (*numbers, *seconds.values())]
        diverged = (~np.isfinite(grid["norm"])).sum()
        rows.append([label, *cells, f"{diverged} of {grid['norm'].size:,}"])
    norm = f"norm at {lambdas[-1]:g}"
    folder.table(
        ["", "best lambda", "test loss", norm, "compile (s)", "run (s)", "diverged"],
        rows,
        title=f"{config.lambdas} lambdas, medians of {config.seeds} seeds",
    )
    say(
        f"w = 0 has an expected test loss of {linear_problem.zero_loss(config):.3g}.\n"
        "Adam divides the gradient by its own root mean square, and the gradient of an "
        "L2 penalty with it: no weight moves by much more than the learning rate in a "
        "step, however large lambda is. AdamW subtracts learning rate x lambda of "
        "each weight beside Adam's step."
    )
    draw_true_weights(((config, grids["scratch"]), (larger, grids.pop(large))), folder)
    small = "The larger lambda, the smaller the weights"
    draw_grids(config, {"SGD": grids.pop("scratch")}, folder, "sweep.png", small)
    rescaled = "Adam rescales the gradient of an L2 penalty, but not AdamW's decay"
    draw_grids(config, grids, folder, "adam.png", rescaled)
    return summaries


def draw_curves(
    histories: Mapping[tuple[float, str], Measures], config: Config, folder: RunFolder
) -> None:
    """Draw both losses against the epoch, without and with the penalty."""
    lambdas = dict.fromkeys(lambd for lambd, _ in histories)
    last = {lambd: histories[lambd, "scratch"]["test_loss"][-1] for lambd in lambdas}
    ends = ", ".join(f"{loss:.3g} (lambda {lambd:g})" for lambd, loss in last.items())
    with folder.figure(
        "curves.png",
        columns=len(lambdas),
        size=(8.5, 3.4),
        title=f"{config.inputs} weights learnt from {config.train_rows} rows, from "
        f"scratch: the test loss ends at {ends}",
        caption="How far the test loss stays above the training loss for each lambda.",
        alt="Line charts of the halved squared error against the epoch on a "
        "logarithmic scale, one chart for each lambda: training and test loss, from "
        "scratch solid and concise dashed.",
        squeeze=False,
        sharey=True,
    ) as panels:
        epochs = np.arange(1, config.epochs + 1)
        for axes, lambd in zip(panels[0], lambdas, strict=True):
            for method, dashes in (("scratch", "-"), ("concise", "--")):
                for i, split in enumerate(("train", "test")):
                    losses = histories[lambd, method][f"{split}_loss"]
                    line = {"color": plots.COLOURS[i], "label": f"{method}, {split}"}
                    axes.plot(epochs, losses, dashes, **line)
            axes.set(xlabel="epoch", yscale="log")
            axes.set_title(f"lambda {lambd:g}", fontsize=10)
            axes.legend()
        panels[0, 0].set_ylabel("halved squared error")


def draw_true_weights(
    grids: Sequence[tuple[Config, Measures]], folder: RunFolder
) -> None:
    """Draw the test loss relative to that of weights of zero, for two true weights."""
    with folder.figure(
        "true_weights.png",
        columns=2,
        size=(8.5, 3.0),
        title="With ten times larger true weights, the decay can be too strong",
        caption="Test loss from scratch, divided by what weights of zero are expected "
        "to have; dotted: --lambd.",
        alt="Two line charts against lambda on a logarithmic axis: the test loss as a "
        "multiple of that of weights of zero, with the true weights of the run and "
        "with ten times larger ones; a vertical line at lambda.",
        sharey=True,
    ) as panels:
        for axes, (config, grid) in zip(panels, grids, strict=True):
            lambdas = linear_problem.grid_lambdas(config.lambdas)
            relative = grid["test_loss"] / linear_problem.zero_loss(config)
            plots.quantiles(axes, lambdas, relative)
            axes.axhline(1, color="0.3", lw=1)
            axes.axvline(config.lambd, color="0.3", ls=":")
            axes.set(xlabel="lambda", xscale="log", xlim=(1, 100), ylim=(0.6, 2.0))
            axes.set_title(f"true weights {config.true_weight:g}", fontsize=10)
        panels[0].set_ylabel("test loss / that of w = 0")


def draw_grids(
    config: Config,
    grids: Mapping[str, Measures],
    folder: RunFolder,
    file: str,
    title: str,
) -> None:
    """Draw each measure against lambda: the median, and the middle 80% of the seeds."""
    lambdas = linear_problem.grid_lambdas(config.lambdas)
    zero = linear_problem.zero_loss(config)
    with folder.figure(
        file,
        columns=3,
        size=(8.5, 3.0),
        title=title,
        caption=f"After {config.epochs} epochs; losses are halved squared errors; "
        f"median and middle 80% of {config.seeds} seeds; dotted: weights of zero.",
        alt="Three line charts against lambda on logarithmic axes: training loss, test "
        f"loss and norm of the weights, a line for each of {', '.join(grids)}: the "
        "median over the seeds, with a band for the middle 80%.",
    ) as panels:
        for axes, (name, words) in zip(panels, LABELS.items(), strict=True):
            for label, grid in grids.items():
                plots.quantiles(axes, lambdas, grid[name], label=label)
            axes.set(xlabel="lambda", ylabel=words, xscale="log", yscale="log")
        _, test, norm = panels
        test.axhline(zero, color="0.3", ls=":")
        test.annotate("w = 0", (lambdas[0], zero), (0, 3), textcoords="offset points")
        norm.legend(loc="lower left")


if __name__ == "__main__":
    cli.main(Config, run)
