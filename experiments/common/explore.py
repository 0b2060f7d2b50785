"""Figures to play with: runs on a grid of settings, which a page's script draws.

Without scripts there is a picture of one setting, and the data are a file to download.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

KINDS = {"lines": "-", "dots": ".", "bars": ""}


class Panel(NamedTuple):
    """One set of axes. Series have the shape (*grid, points), or (points,) if fixed.

    Attributes:
      labels: of both axes.
      x: where the points of every series are.
      lines: series by name; so are `dots` and `bars`.
      log: the logarithmic axes: "", "x", "y" or "xy". There, zero is not drawn.
      cursor: name of the slider whose value a vertical line marks.
    """

    labels: tuple[str, str]
    x: ArrayLike
    lines: Mapping[str, ArrayLike] = {}
    dots: Mapping[str, ArrayLike] = {}
    bars: Mapping[str, ArrayLike] = {}
    log: str = ""
    cursor: str = ""


class Explore:
    """A figure with sliders. It shows itself as the last value of a notebook's cell."""

    def __init__(
        self,
        name: str,
        sliders: Mapping[str, ArrayLike],
        *panels: Panel,
        told: Mapping[str, ArrayLike],
        start: Sequence[int],
    ) -> None:
        """Draw the picture at `start`, and note the data.

        Args:
          name: of the file with the data.
          sliders: the values of each setting; their numbers are the grid.
          *panels: what is drawn.
          told: numbers in words below the figure, of the shape of the grid.
          start: the position of each slider at first.
        """
        self.name, shape = name, [np.size(values) for values in sliders.values()]
        at = int(np.ravel_multi_index(tuple(start), shape))
        figure = Figure((9, 3.4), layout="constrained", dpi=90)
        drawn = np.ravel(figure.subplots(1, len(panels)))
        self.data = {
            "made by": f"python -m experiments.book, by the cell of Explore({name!r})",
            "sliders": {key: numbers(values) for key, values in sliders.items()},
            "start": list(start),
            "told": {key: numbers(values) for key, values in told.items()},
            "panels": [
                draw(axes, p, at) for axes, p in zip(drawn, panels, strict=True)
            ],
        }
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.picture = base64.b64encode(file.getvalue()).decode()

    def _repr_html_(self) -> str:
        labels = [" against ".join(p["labels"][::-1]) for p in self.data["panels"]]
        picture = f"data:image/png;base64,{self.picture}"
        return (
            f'<figure class="explore" id="{self.name}">'
            f'<img alt="{"; ".join(labels)}" src="{picture}">'
            f'<script type="application/json">{json.dumps(self.data)}</script>'
            f'<a href="{self.name}.json" download>{self.name}.json</a></figure>'
        )


def numbers(values: ArrayLike) -> list[float | str | None]:
    """Return four digits of each number, None for what is not finite, and words."""
    flat = np.ravel(values)
    if flat.dtype.kind == "U":
        return list(map(str, flat))
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in flat]


def draw(axes: Axes, panel: Panel, at: int) -> dict[str, Any]:
    """Draw a panel at setting number `at` on the scale of all; return its data."""
    x = np.asarray(panel.x, float)
    log = ["x" in panel.log, "y" in panel.log]
    scales = ["log" if is_log else "linear" for is_log in log]
    axes.set(xlabel=panel.labels[0], ylabel=panel.labels[1])
    axes.set(xscale=scales[0], yscale=scales[1])
    data: dict[str, Any] = {"labels": panel.labels, "x": numbers(x), "log": log}
    for kind, marker in KINDS.items():
        data[kind] = {}
        for name, values in getattr(panel, kind).items():
            data[kind][name] = numbers(values)
            rows = np.reshape(np.asarray(values, float), (-1, x.size))
            row = rows[at % len(rows)]
            if marker:
                axes.plot(x, row, marker, label=name)
            else:
                axes.bar(x, row, label=name, alpha=0.5)
            seen = rows[np.isfinite(rows) & ((rows > 0) | (not log[1]))]
            axes.update_datalim([(x.min(), seen.min()), (x.max(), seen.max())])
    axes.autoscale_view()
    axes.legend(fontsize="small")
    data |= {"limits": [], "ticks": [], "cursor": panel.cursor}
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        data["limits"].append(numbers([low, high]))
        data["ticks"].append(numbers(ticks))
    return data
