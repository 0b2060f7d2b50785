"""The figures of `experiments.compare`."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.console import Report


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
                axes.locator_params(axis="x", nbins=4)
        columns[0][0].legend(fontsize=7)


def draw_times(rows: list[Any], report: Report) -> None:
    """Draw how many times as fast as PyTorch, eager, each way is."""
    names = list(dict.fromkeys(row.system for row in rows))
    ways = list(dict.fromkeys(row.name for row in rows if row.ratio != 1))
    with plots.figure(
        report.folder / "times.png",
        1,
        1,
        size=(8, 0.7 * len(names) + 1.4),
        title="speed of the same training, PyTorch eager = 1",
    ) as axes:
        height = 0.8 / len(ways)
        for i, (colour, way) in enumerate(zip(plots.COLOURS, ways, strict=False)):
            found = {row.system: row.ratio for row in rows if row.name == way}
            ratios = np.array([found.get(name, np.nan) for name in names])
            y = np.arange(len(names)) + i * height
            # From 1, since a bar on a logarithmic axis has no zero to start from.
            bars = axes.barh(y, ratios - 1, height, left=1, color=colour, label=way)
            texts = [f"{ratio:.2g}x" for ratio in ratios]
            axes.bar_label(bars, texts, fontsize=7, padding=2)
        axes.axvline(1, color="0.3", linewidth=1)
        axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names, fontsize=8)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xscale="log")
        axes.margins(x=0.1)
        plots.plain_numbers(axes.xaxis)
        axes.legend(fontsize=7)
