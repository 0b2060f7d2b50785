"""The figure of `experiments.benchmark`: the speed of every row against PyTorch's."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.tables import FLOOR, by_system, short
from experiments.common import plots


def draw(rows: list[dict[str, Any]], found: dict[str, Any], folder: Path) -> None:
    """Draw the speed of every row against PyTorch's, and the floor."""
    groups = {
        system: [r for r in group if r["to_pytorch"] is not None]
        for system, group in by_system(rows).items()
    }
    groups = {system: group for system, group in groups.items() if group}
    if not groups:
        return
    sizes = [len(group) for group in groups.values()]
    with plots.figure(
        folder / "benchmark.png",
        len(groups),
        1,
        size=(8.5, 0.27 * sum(sizes) + 0.8 * len(groups)),
        title=f"speed, PyTorch eager = 1, on {found['processor']}, "
        f"{found['threads']} threads",
        height_ratios=sizes,
    ) as panels:
        for axes, (system, group) in zip(np.ravel(panels), groups.items(), strict=True):
            for y, r in enumerate(group):
                name, speed = r["name"], r["to_pytorch"]
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
            axes.set_yticks(range(len(group)), [r["name"] for r in group])
            axes.set(xscale="log")
            plots.plain_numbers(axes.xaxis)
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.12, y=0.08)
            axes.set_title(system, fontsize=9, loc="left")
            axes.tick_params(labelsize=7)
            axes.invert_yaxis()
