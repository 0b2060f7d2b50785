"""How figures look, and the shapes that several experiments draw.

Only this module imports matplotlib: an experiment draws on the axes that
`RunFolder.figure` lends it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from jaxtyping import ArrayLike, Float, Int
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap as ListedColormap  # for experiments
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import LogLocator

from ch4jax.storage import atomic

PHONE = 4.25  # inches that a telephone is wide, at the letters of a figure
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))  # for lines that may coincide
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@contextmanager
def figure(
    path: Path,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float],
    title: str = "",
    **grid: Any,
) -> Iterator[Any]:
    """Lend axes to draw on; the PNG is written when the block ends.

    Panels that are side by side are written once more, stacked, to `narrow(path)`.

    Args:
      path: the PNG to write.
      rows: of panels.
      columns: of panels.
      size: width and height in inches; 8.5 is the width of a page.
      title: above the panels.
      **grid: what else `plt.subplots` takes.

    Yields:
      The axes; an array of them where there are several panels.
    """
    mpl.use("agg")
    # A matplotlibrc may ask for LaTeX, say, that is not there: it has no say here.
    with plt.style.context(["default", STYLE]):
        drawing, axes = plt.subplots(rows, columns, figsize=size, **grid)
        try:
            yield axes
            drawing.suptitle(title, fontsize=10, wrap=True)
            with atomic.writing(path) as part:
                drawing.savefig(part, format="png")
            if columns > 1:
                stack(drawing, rows, columns)
                with atomic.writing(narrow(path)) as part:
                    drawing.savefig(part, format="png", bbox_inches="tight")
        finally:
            plt.close(drawing)


def narrow(path: Path) -> Path:
    """Return where `figure` writes the stacked panels, if there are several."""
    return path.with_name(f"{path.stem}-narrow.png")


def stack(drawing: Figure, rows: int, columns: int) -> None:
    """Put as many panels side by side as fit a telephone, each as large as it was."""
    width, height = drawing.get_size_inches()
    fit = max(1, int(PHONE * columns / width))
    stacked = -(-rows * columns // fit)
    drawing.set_size_inches(PHONE, height * stacked / rows)
    grid = GridSpec(stacked, fit, drawing)
    for legend in list(drawing.legends):
        words = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        lines = [line for line in legend.legend_handles if line is not None]
        drawing.legend(lines, words, loc="outside lower center")
    for i, axes in enumerate(drawing.axes):
        axes.set_subplotspec(grid[i])
        # Panels that share an axis no longer stand beside its labels.
        axes.tick_params(labelleft=True, labelbottom=True)
        for label in ("xlabel", "ylabel"):
            group = getattr(axes, f"get_shared_{label[0]}_axes")().get_siblings(axes)
            words = [getattr(panel, f"get_{label}")() for panel in (axes, *group)]
            axes.set(**{label: next(filter(None, words), "")})


def band(
    axes: Axes,
    x: Float[np.ndarray, " points"] | Int[np.ndarray, " points"],
    values: Float[ArrayLike, "points members"],
    **line: Any,
) -> None:
    """Draw the mean of `values` over their last axis, and one deviation around it.

    Args:
      axes: where to draw.
      x: where the points are.
      values: what is averaged.
      **line: what else `Axes.plot` takes: `color`, `label`, `linestyle`.
    """
    values = np.asarray(values)
    mean, spread = values.mean(axis=-1), values.std(axis=-1)
    (drawn,) = axes.plot(x, mean, **line)
    low, high = mean - spread, mean + spread
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, lw=0)


def quantiles(
    axes: Axes,
    x: Float[np.ndarray, " points"] | Int[np.ndarray, " points"],
    values: Float[ArrayLike, "points members"],
    **line: Any,
) -> None:
    """Draw the median of `values` over their last axis, and their middle 80%.

    Unlike a mean and its deviation, they suit a logarithmic axis. See `band`.
    """
    low, median, high = np.quantile(np.asarray(values), (0.1, 0.5, 0.9), axis=-1)
    (drawn,) = axes.plot(x, median, **line)
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, lw=0)


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, 20 and so on, without exponents."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
