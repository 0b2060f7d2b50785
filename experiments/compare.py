"""PyTorch and JAX side by side: answers first, then times.

Each system goes through four levels: (1) the same parameters and rows give the same
outputs, loss and gradients; (2) one step of each optimiser; (3) a whole run with the
same parameters, batches and masks; (4) independent runs end alike, by an equivalence
test. Then the same training is timed on both sides, in turn. It needs PyTorch:
`pip install "ch4jax[torch]"`.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Literal

from experiments import cli
from experiments.console import Report
from experiments.errors import Failed, UsageError

Room = Literal["dropout", "weight_decay", "house_prices", "initialization", "blocks"]
ROOMS: tuple[Room, ...] = (
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

    systems: cli.Positional[tuple[Room, ...]] = ROOMS
    """Rooms to compare; all if none is given."""
    quick: bool = False
    """Leave out level 4, and time one round."""
    rounds: int = 5
    """Rounds of timing that are counted, after one that warms up."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


def run(config: Config, report: Report) -> None:
    """Compare each system, print the tables, draw, and fail if a verdict does."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('PyTorch is not installed: pip install "ch4jax[torch]"')
    import jax
    import torch

    from experiments import floors
    from experiments.pytorch import levels, race

    report.begin(config)
    report.say(
        f"PyTorch {torch.__version__} and JAX {jax.__version__} on "
        f"{jax.devices()[0].device_kind}; times with {floors.threads()} threads each"
    )
    torch.set_num_threads(1)  # for the answers; waiting threads would slow XLA's
    verdicts, courses, outcomes = [], {}, {}
    chosen = make(config.systems)
    with report.progress("systems", len(chosen)) as done:
        for system in chosen:
            key = jax.random.key(config.seed)
            found, courses[system.name] = numbers(system, key)
            found.append(levels.same_start(system, key))
            if system.outcome and not config.quick:
                runs = levels.independent_runs(system, system.outcome, key)
                outcomes[system.name] = (system.outcome, runs)
                found.append(levels.equivalence(system, system.outcome, runs))
            verdicts += found
            failed = sum(not verdict.passed for verdict in found)
            done(f"{system.name}, {len(found)} comparisons, {failed} failed")
            report.metrics(system=system.name, verdicts=[v._asdict() for v in found])
    show_verdicts(verdicts, report)
    report.say(DRIFT)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    rows = []
    if not failed:
        key = jax.random.key(config.seed)
        timed = [s for s in chosen if s.outcome]
        torch.set_num_threads(floors.threads())
        with report.progress("times", len(timed)) as done:
            for system in timed:
                rounds = 1 if config.quick else config.rounds
                rows += race.race(system, rounds=rounds, key=key)
                done(system.name)
        show_times(rows, report)
    draw(courses, outcomes, rows, report)
    content = summary(verdicts, courses, outcomes, rows)
    report.finish(content | {"seconds": report.seconds()})
    if failed:
        first = failed[0]
        raise Failed(
            f"{len(failed)} of {len(verdicts)} comparisons failed, the first: "
            f"{first.system}, level {first.level}, {first.what}: "
            f"{first.difference:.1e}, expected at most {first.tolerance:.1e}"
        )


def make(rooms: tuple[Room, ...]) -> list[Any]:
    """Return the systems of the rooms that are named, in the order of the book."""
    from ch4jax.data import fashion_mnist
    from experiments.pytorch import (
        deep_mlp,
        dropout,
        house_prices,
        modules,
        weight_decay,
    )

    images = fashion_mnist.load("mini")
    made: dict[Room, Any] = {
        "dropout": lambda: dropout.systems(images),
        "weight_decay": weight_decay.systems,
        "house_prices": house_prices.systems,
        "initialization": lambda: deep_mlp.systems(images),
        "blocks": lambda: modules.systems(images),
    }
    return [system for room in ROOMS if room in rooms for system in made[room]()]


def numbers(system: Any, key: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the verdicts of levels 1 to 3, and the course of the run in each dtype."""
    from experiments.pytorch import levels

    verdicts = []
    for dtype in ("float64", "float32"):
        verdicts += levels.same_numbers(system, dtype, key)
    verdicts += levels.honest_masks(system, key)
    for dtype in ("float64", "float32"):
        verdicts += levels.one_step(system, dtype, key)
    courses = {d: levels.whole_run(system, d, key) for d in ("float64", "float32")}
    verdicts.append(levels.every_row(system, key))
    verdicts += levels.whole_runs(system, key, courses["float64"])
    return verdicts, {dtype: c.differences for dtype, c in courses.items()}


def show_verdicts(verdicts: list[Any], report: Report) -> None:
    """Print one line for each comparison."""
    report.table(
        ["system", "level", "what", "difference", "at most", "verdict"],
        [
            [
                v.system,
                str(v.level),
                v.what,
                f"{v.difference:.1e}",
                f"{v.tolerance:.1e}",
                "equal" if v.passed else "FAILED",
            ]
            for v in verdicts
        ],
        title="answers",
    )


def show_times(rows: list[Any], report: Report) -> None:
    """Print seconds, and how many times as fast as PyTorch, eager, each row is."""
    report.table(
        ["system", "how", "compile (s)", "median (s)", "fastest", "slowest", "speed"],
        [
            [
                row.system,
                row.name,
                f"{row.compile:.2f}",
                *(f"{t:.4f}" for t in (row.median, row.fastest, row.slowest)),
                f"{row.ratio:.1f}x",
            ]
            for row in rows
        ],
        title="times of the same training, float32",
    )


def summary(
    verdicts: list[Any], courses: dict[str, Any], outcomes: dict[str, Any], rows: Any
) -> dict[str, Any]:
    """Return all that was found, for `summary.json`."""
    return {
        "verdicts": [
            v._asdict() | {"verdict": "equal" if v.passed else "failed"}
            for v in verdicts
        ],
        "courses": courses,
        "outcomes": {
            name: {"metric": outcome.metric, "margin": outcome.margin} | runs._asdict()
            for name, (outcome, runs) in outcomes.items()
        },
        "times": [row._asdict() for row in rows],
    }


def draw(
    courses: dict[str, Any], outcomes: dict[str, Any], rows: Any, report: Report
) -> None:
    """Draw the drift of each run, the outcomes of both sides, and the times."""
    draw_drift(courses, report)
    if outcomes:
        draw_outcomes(outcomes, report)
    if rows:
        draw_times(rows, report)


def draw_drift(courses: dict[str, Any], report: Report) -> None:
    """Draw the difference of the parameters against the step, one panel a system."""
    import numpy as np

    from experiments import plots
    from experiments.pytorch import levels

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
                numbers = np.arange(1, len(differences) + 1)
                drawn = np.maximum(differences, 1e-18)
                axes.plot(numbers, drawn, color=colour, label=dtype, linewidth=1)
            axes.axhline(levels.EXACT, color="grey", linestyle=":", linewidth=1)
            axes.set(yscale="log", ylim=(1e-18, 10), title=name)
            axes.title.set_fontsize(8)
            axes.tick_params(labelsize=7)
        for axes in panels[len(courses) :]:
            axes.set_visible(False)
        panels[0].legend(fontsize=7)


def draw_outcomes(outcomes: dict[str, Any], report: Report) -> None:
    """Draw both distributions, and the interval of their difference in the margins."""
    import numpy as np

    from experiments import plots

    with plots.figure(
        report.folder / "outcomes.png",
        2,
        len(outcomes),
        size=(2.8 * len(outcomes), 4.2),
        title="independent runs: outcomes, and the difference of their means",
    ) as grid:
        columns = np.reshape(grid, (2, len(outcomes))).T
        pairs = zip(columns, outcomes.items(), strict=True)
        for (above, below), (name, (outcome, runs)) in pairs:
            both = np.concatenate([runs.ours, runs.theirs])
            bins = np.histogram_bin_edges(both, 16)
            sides = {"JAX": runs.ours, "PyTorch": runs.theirs}
            for colour, (label, side) in zip(
                plots.COLOURS, sides.items(), strict=False
            ):
                above.hist(side, bins, color=colour, alpha=0.5, label=label)
            above.set(title=name, xlabel=outcome.metric)
            below.errorbar(
                [runs.difference],
                [0],
                xerr=np.abs(np.array(runs.interval) - runs.difference)[:, None],
                color="black",
                marker="o",
                capsize=4,
            )
            for margin in (-outcome.margin, outcome.margin):
                below.axvline(margin, color=plots.COLOURS[1], linestyle="--")
            reach = 1.3 * outcome.margin
            below.set(xlim=(-reach, reach), yticks=[], xlabel="JAX - PyTorch, 90%")
            for axes in (above, below):
                axes.title.set_fontsize(8)
                axes.tick_params(labelsize=7)
        columns[0][0].legend(fontsize=7)


def draw_times(rows: list[Any], report: Report) -> None:
    """Draw how many times as fast as PyTorch, eager, each way is."""
    import numpy as np

    from experiments import plots

    names = list(dict.fromkeys(row.system for row in rows))
    ways = list(dict.fromkeys(row.name for row in rows))
    with plots.figure(
        report.folder / "times.png",
        1,
        1,
        size=(8, 0.7 * len(names) + 1.4),
        title="speed of the same training, PyTorch eager = 1",
    ) as axes:
        height = 0.8 / len(ways)
        for i, (colour, way) in enumerate(zip(plots.COLOURS, ways, strict=False)):
            ratios = {row.system: row.ratio for row in rows if row.name == way}
            y = np.arange(len(names)) + i * height
            bars = axes.barh(
                y, [ratios.get(n, 0) for n in names], height, color=colour, label=way
            )
            axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names, fontsize=8)
        axes.invert_yaxis()
        axes.set(xscale="log")
        axes.legend(fontsize=7)


def main() -> None:
    """Run from the command line; what is timed is compiled here, not cached."""
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
    cli.main(Config, run)


if __name__ == "__main__":
    main()
