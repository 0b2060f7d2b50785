"""The figure of `experiments.benchmark`: the speed of every row against PyTorch's."""

from collections.abc import Sequence

import numpy as np

from experiments.benchmark.rows import FLOOR
from experiments.benchmark.tables import Row, by_system, short
from experiments.common import plots
from experiments.common.run_folder import RunFolder


def draw(rows: Sequence[Row], title: str, folder: RunFolder) -> None:
    """Draw the speed of every row against PyTorch's, and the floor."""
    groups = by_system([row for row in rows if row["to_pytorch"] is not None])
    if not groups:
        return
    sizes = [len(group) for group in groups.values()]
    with folder.figure(
        "benchmark.png",
        len(groups),
        1,
        size=(8.5, 0.27 * sum(sizes) + 0.8 * len(groups)),
        title=title,
        height_ratios=sizes,
        caption="Speed of each way to do the same work; PyTorch's fastest row of the "
        "same dtype is 1. The dashed line is the speed of the matrix products alone.",
        alt="A chart for each system, on a logarithmic scale: a point for the speed of "
        "each way to do the same work, on a line that starts at the speed of PyTorch's "
        "fastest row; JAX in blue, PyTorch in orange, the products alone in grey.",
    ) as panels:
        for axes, (system, group) in zip(np.ravel(panels), groups.items(), strict=True):
            for y, row in enumerate(group):
                name, speed = row["name"], row["to_pytorch"]
                colour = plots.COLOURS[0 if name.startswith("JAX") else 1]
                if name == FLOOR:
                    colour = "grey"
                    axes.axvline(speed, color=colour, linestyle="--", linewidth=1)
                # From 1, since a bar on a logarithmic axis has no zero to start from.
                axes.plot([1, speed], [y, y], color=colour, linewidth=2)
                axes.plot(speed, y, color=colour, marker="o")
                axes.annotate(
                    f"{short(speed)}x",
                    (speed, y),
                    xytext=(6, 0) if speed >= 1 else (-6, 0),
                    textcoords="offset points",
                    ha="left" if speed >= 1 else "right",
                    va="center",
                    fontsize=7,
                    bbox={"color": "white", "pad": 0.5},
                )
            axes.set_yticks(range(len(group)), [row["name"] for row in group])
            axes.set(xscale="log")
            plots.plain_numbers(axes.xaxis)
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.12, y=0.08)
            axes.set_title(system, fontsize=9, loc="left")
            axes.tick_params(labelsize=7)
            axes.invert_yaxis()
