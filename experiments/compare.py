"""PyTorch and JAX side by side: every system gives the same answers on both sides.

Each system goes through four levels: (1) the same parameters and rows give the same
outputs, loss and gradients; (2) one step of each optimiser; (3) a whole run with the
same parameters, batches and masks; (4) independent runs end alike, by an equivalence
test. It needs PyTorch: `pip install "ch4jax[torch]"`.
"""

import importlib.util
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import numpy as np

from ch4jax.data import fashion_mnist
from experiments.common import cli, plots
from experiments.common.console import Report
from experiments.common.errors import Failed, UsageError
from experiments.pytorch.verdicts import Outcomes, Verdict

Topic = Literal["dropout", "weight_decay", "house_prices", "initialization", "blocks"]
TOPICS: tuple[Topic, ...] = (
    "dropout",
    "weight_decay",
    "house_prices",
    "initialization",
    "blocks",
)
DRIFT = (
    "float32 drifts because training amplifies rounding, step after step; the same "
    "program in float64 stays at rounding, so what is amplified is no fault"
)


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the comparison."""

    keep_programs: ClassVar[bool] = False

    systems: cli.Positional[tuple[Topic, ...]] = TOPICS
    """Topics to compare; all if none is given."""
    quick: bool = False
    """Leave out the independent runs of level 4."""


def run(config: Config, report: Report) -> None:
    """Compare each system, print the verdicts, draw, and fail if a verdict does."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('PyTorch is not installed: pip install "ch4jax[torch]"')
    import torch

    from experiments.pytorch import (
        deep_mlp,
        dropout,
        house_prices,
        levels,
        modules,
        outcomes,
        weight_decay,
    )

    report.begin(config)
    report.say(
        f"PyTorch {torch.__version__} and JAX {jax.__version__} on "
        f"{jax.devices()[0].device_kind}"
    )
    torch.set_num_threads(1)  # PyTorch's waiting threads would slow XLA's
    images = fashion_mnist.load("mini")
    families = {
        "dropout": lambda: dropout.systems(images),
        "weight_decay": weight_decay.systems,
        "house_prices": house_prices.systems,
        "initialization": lambda: deep_mlp.systems(images),
        "blocks": lambda: modules.systems(images),
    }
    chosen = [
        s for topic in TOPICS if topic in config.systems for s in families[topic]()
    ]
    verdicts, courses, judged = [], {}, {}
    with report.progress("systems", len(chosen)) as done:
        for system in chosen:
            key = jax.random.key(config.seed)
            found, courses[system.name] = levels.given_the_same(system, key)
            found.append(outcomes.same_start(system, key))
            if system.outcome and not config.quick:
                runs = outcomes.independent_runs(system, system.outcome, key)
                judged[system.name] = runs
                found.append(outcomes.equivalence(system, runs))
            verdicts += found
            failed = sum(not verdict.passed for verdict in found)
            done(f"{system.name}, {len(found)} comparisons, {failed} failed")
            report.metrics(system=system.name, verdicts=[v._asdict() for v in found])
    show(verdicts, report)
    report.say(DRIFT)
    draw_drift(courses, levels.EXACT, report)
    if judged:
        draw_outcomes(judged, report)
    report.finish(
        {
            "verdicts": [v._asdict() | {"verdict": word(v)} for v in verdicts],
            "courses": courses,
            "outcomes": {name: runs._asdict() for name, runs in judged.items()},
            "seconds": report.seconds(),
        }
    )
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        first = failed[0]
        raise Failed(
            f"{len(failed)} of {len(verdicts)} comparisons failed, the first: "
            f"{first.system}, level {first.level}, {first.what}: "
            f"{first.difference:.1e}, expected at most {first.tolerance:.1e}"
        )


def word(verdict: Verdict) -> str:
    """Return the verdict as `summary.json` has it."""
    return "equal" if verdict.passed else "failed"


def show(verdicts: list[Verdict], report: Report) -> None:
    """Print a line for each system, then one for each comparison."""
    report.table(
        ["system", "level", "what", "difference", "at most", "verdict"],
        [
            [
                v.system,
                str(v.level),
                v.what,
                f"{v.difference:.1e}",
                f"{v.tolerance:.1e}",
                word(v) if v.passed else "FAILED",
            ]
            for v in verdicts
        ],
        title="answers",
    )


def draw_drift(
    courses: dict[str, dict[str, list[float]]], bound: float, report: Report
) -> None:
    """Draw the difference of the parameters against the step, one panel a system."""
    columns = min(4, len(courses))
    lines = -(-len(courses) // columns)
    with plots.figure(
        report.folder / "drift.png",
        lines,
        columns,
        size=(2.6 * columns, 2.1 * lines + 0.4),
        title="difference of the parameters from PyTorch's, against the step",
    ) as grid:
        panels = np.ravel(grid)
        for axes, (name, by_dtype) in zip(panels, courses.items(), strict=False):
            for colour, (dtype, differences) in zip(
                plots.COLOURS, by_dtype.items(), strict=False
            ):
                steps = np.arange(1, len(differences) + 1)
                drawn = np.maximum(differences, 1e-18)
                axes.plot(steps, drawn, color=colour, label=dtype, linewidth=1)
            axes.axhline(bound, color="grey", linestyle=":", linewidth=1)
            axes.set(yscale="log", ylim=(1e-18, 10))
            axes.set_title(name, fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in panels[len(courses) :]:
            axes.set_visible(False)
        panels[0].legend(fontsize=7)


def draw_outcomes(outcomes: dict[str, Outcomes], report: Report) -> None:
    """Draw both distributions, and the interval of their difference in the margins."""
    with plots.figure(
        report.folder / "outcomes.png",
        2,
        len(outcomes),
        size=(2.8 * len(outcomes), 4.2),
        title="independent runs: outcomes, and the difference of their means",
    ) as grid:
        columns = np.reshape(grid, (2, len(outcomes))).T
        pairs = zip(columns, outcomes.items(), strict=True)
        for (above, below), (name, runs) in pairs:
            bins = np.histogram_bin_edges(np.concatenate([runs.ours, runs.theirs]), 16)
            blue, orange, *_ = plots.COLOURS
            above.hist(runs.ours, bins, color=blue, alpha=0.5, label="JAX")
            above.hist(runs.theirs, bins, color=orange, alpha=0.5, label="PyTorch")
            above.set(xlabel=runs.metric)
            above.set_title(name, fontsize=8)
            reach = np.abs(np.array(runs.interval) - runs.difference)[:, None]
            below.errorbar(
                [runs.difference], [0], xerr=reach, color="black", marker="o", capsize=4
            )
            for margin in (-runs.margin, runs.margin):
                below.axvline(margin, color=orange, linestyle="--")
            limits = (-1.3 * runs.margin, 1.3 * runs.margin)
            below.set(xlim=limits, yticks=[], xlabel="JAX - PyTorch, 90%")
            for axes in (above, below):
                axes.tick_params(labelsize=7)
                axes.locator_params(axis="x", nbins=4)
        columns[0][0].legend(fontsize=7)


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
