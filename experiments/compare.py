"""PyTorch and JAX side by side: every system gives the same answers on both sides.

Given a file with two modules of your own, it compares those (`--template pair.py`
writes one to start from).

Each system goes through four levels: (1) the same parameters and rows give the same
outputs, loss and gradients; (2) three steps of each optimiser; (3) a whole run with the
same parameters, batches and masks; (4) independent runs end alike, by an equivalence
test. On a GPU or TPU, PyTorch stays on the CPU, and our loss and gradients are compared
with those that JAX has there too. It needs PyTorch: `pip install -e ".[torch]"`.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from ch4jax import parity
from ch4jax.data import fashion_mnist
from ch4jax.parity import Check, Outcomes
from experiments.common import cli, plots, setup
from experiments.common.console import progress, say
from experiments.common.errors import Failed, UsageError
from experiments.common.run_folder import RunFolder

TOPICS = ("dropout", "weight_decay", "house_prices", "initialization", "blocks")


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the comparison."""

    keep_programs: ClassVar[bool] = False

    systems: cli.Positional[tuple[str, ...]] = TOPICS
    """Topics to compare, all if none is given; or the file of a pair of your own."""
    quick: bool = False
    """Leave out the independent runs of level 4."""
    template: cli.OptionalPath = None
    """Write a pair to start from into this new file, and compare nothing."""

    def __post_init__(self) -> None:
        """Check the topics."""
        super().__post_init__()
        for name in () if self.pair else self.systems:
            if name not in TOPICS:
                raise UsageError(
                    f"systems must be of {', '.join(TOPICS)}, or one .py file, "
                    f"got {name}"
                )

    @property
    def pair(self) -> Path | None:
        """The file of a pair, if it is one that is compared."""
        name, *others = self.systems
        return Path(name) if name.endswith(".py") and not others else None


def run(config: Config) -> None:
    """Compare each system, print the verdicts, draw, and fail if a verdict does."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('PyTorch is not installed: pip install -e ".[torch]"')
    import torch

    from experiments.pytorch import (
        deep_mlp,
        dropout,
        house_prices,
        levels,
        modules,
        pair,
        systems,
        weight_decay,
    )

    if config.template:
        pair.write_template(config.template)
        say(
            f"{config.template}: compare it by python -m experiments.compare "
            f"{config.template}"
        )
        return
    if config.pair:
        given = pair.read(config.pair)
        pair.show(given, RunFolder.create("compare", config))
        return
    folder = RunFolder.create("compare", config)
    device = jax.devices()[0].device_kind
    say(f"PyTorch {torch.__version__} and JAX {jax.__version__} on {device}")
    torch.set_num_threads(1)  # PyTorch's waiting threads would slow XLA's
    images = fashion_mnist.load("mini")
    families = {
        "dropout": lambda: dropout.systems(images),
        "weight_decay": weight_decay.systems,
        "house_prices": house_prices.systems,
        "initialization": lambda: deep_mlp.systems(images),
        "blocks": lambda: modules.systems(images),
    }
    chosen = [make for topic, make in families.items() if topic in config.systems]
    compared = [system for make in chosen for system in make()]
    verdicts: list[dict[str, Any]] = []
    courses, judged, reports = {}, {}, {}
    with progress("systems", len(compared)) as done:
        for system in compared:
            key = jax.random.key(config.seed)
            report = levels.same_numbers(system, key)
            if not report.passed:
                reports[system.name] = report.to_dict()
                say(f"{system.name}\n{report}")
            whole, courses[system.name] = levels.whole_runs(system, key)
            found = [*report.checks, *whole, levels.same_start(system, key)]
            if jax.default_backend() != "cpu":
                with setup.on_cpu():
                    there = systems.slope(system, key)
                apart = parity.difference(systems.slope(system, key), there)
                what = "loss and gradients, beside the CPU's"
                found.append(Check(1, what, "float32", apart, 1e-4))
            if system.outcome and not config.quick:
                runs = levels.independent_runs(system, system.outcome, key)
                judged[system.name] = runs
                found.append(runs.check)
            rows = [
                {"system": system.name, **check._asdict(), "passed": check.passed}
                for check in found
            ]
            verdicts += rows
            failed = sum(not check.passed for check in found)
            done(f"{system.name}, {len(found)} comparisons, {failed} failed")
            folder.metrics(system=system.name, verdicts=rows)
            pair.table(found, folder, system.name)
    draw_drift(courses, folder)
    if judged:
        draw_outcomes(judged, folder)
    failed = [verdict for verdict in verdicts if not verdict["passed"]]
    folder.finish(
        {
            "verdicts": verdicts,
            "reports": reports,
            "courses": courses,
            "outcomes": {name: runs._asdict() for name, runs in judged.items()},
        },
        headline=f"{len(verdicts) - len(failed)} of {len(verdicts)} comparisons of "
        f"{len(compared)} systems with PyTorch are equal, {len(failed)} failed.",
    )
    if failed:
        words = "{system}, level {level}, {what}: {difference:.1e}, expected at most "
        first = (words + "{allowed:.1e}").format(**failed[0])
        raise Failed(
            f"{len(failed)} of {len(verdicts)} comparisons failed, the first: {first}"
        )


def draw_drift(
    courses: Mapping[str, Mapping[str, Sequence[float]]], folder: RunFolder
) -> None:
    """Draw the difference of the parameters against the step, a line a system."""
    part = {n for n, each in courses.items() if max(each.get("float32", [0])) > 1e-4}
    most = max((max(each["float64"]) for each in courses.values()), default=0.0)
    panels = (
        ("float64", "float64", list(courses)),
        ("float32: most stay", "float32", [n for n in courses if n not in part]),
        ("float32: chaotic systems part", "float32", [n for n in courses if n in part]),
    )
    with folder.figure(
        "drift.png",
        columns=len(panels),
        size=(9.5, 3.4),
        sharey=True,
        title=f"In float64 whole runs stay within {most:.0e} of PyTorch's parameters",
        caption="The same start, batches and masks on both sides, step by step. "
        "Training amplifies rounding; where it is chaotic, float32 has too few digits.",
        alt="Three line charts on logarithmic axes of the relative difference between "
        "the parameters in JAX and in PyTorch against the step, a line for each "
        "system: float64, float32, and float32 where the two sides part.",
    ) as grid:
        for axes, (title, dtype, names) in zip(grid, panels, strict=True):
            for name in names:
                differences = np.maximum(courses[name].get(dtype, []), 1e-18)
                style = {"label": name} if name in part else {"color": "0.7"}
                axes.plot(np.arange(1, len(differences) + 1), differences, **style)
            axes.set(xscale="log", yscale="log", ylim=(1e-18, 10), xlabel="step")
            axes.set_title(title, fontsize=10)
        grid[0].set_ylabel("relative difference (0 at 1e-18)")
        if part:
            grid[-1].legend(fontsize=7, loc="lower left")


def draw_outcomes(outcomes: Mapping[str, Outcomes], folder: RunFolder) -> None:
    """Draw both distributions, and the interval of their difference in the margins."""
    alike = sum(runs.check.passed for runs in outcomes.values())
    with folder.figure(
        "outcomes.png",
        2,
        len(outcomes),
        size=(2.8 * len(outcomes), 4.2),
        squeeze=False,
        title=f"Independent runs of {alike} of {len(outcomes)} systems end alike",
        caption="Runs that share nothing but the hyperparameters: the difference of "
        "the means has to lie between the dashed lines.",
        alt="For each system a histogram of the outcomes of independent runs in JAX "
        "and in PyTorch, and below it the difference of their means with its 90% "
        "interval between two margins.",
    ) as grid:
        for above, below, (name, runs) in zip(*grid, outcomes.items(), strict=True):
            bins = np.histogram_bin_edges(np.concatenate([runs.ours, runs.theirs]), 16)
            above.hist(runs.ours, bins, alpha=0.5, label="JAX")
            above.hist(runs.theirs, bins, alpha=0.5, label="PyTorch")
            above.set(xlabel=runs.metric)
            above.set_title(name, fontsize=8)
            reach = np.abs(np.array(runs.interval) - runs.difference)[:, None]
            below.errorbar(runs.difference, 0, xerr=reach, fmt="ko", capsize=4)
            for margin in (-runs.margin, runs.margin):
                below.axvline(margin, color=plots.COLOURS[1], linestyle="--")
            limits = (-1.3 * runs.margin, 1.3 * runs.margin)
            below.set(xlim=limits, yticks=[], xlabel="JAX - PyTorch, 90%")
            for axes in (above, below):
                axes.tick_params(labelsize=7)
                axes.locator_params(axis="x", nbins=4)
        grid[0, 0].legend(fontsize=7)


if __name__ == "__main__":
    cli.main(Config, run)
