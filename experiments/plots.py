"""Every figure of every experiment; the one place that knows matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


def training_curves(
    path: Path, histories: Mapping[str, Mapping[str, Any]], *, title: str
) -> None:
    """Draw loss and accuracy against the epoch, one colour a variant.

    Args:
      path: the PNG to write.
      histories: for each variant `train_loss`, `train_accuracy`, `test_accuracy`,
        each of shape (epochs, seeds). The line is the mean over the seeds, the
        band one standard deviation to each side.
      title: stands above the panels.
    """
    panels = (
        ("train_loss", "training loss (nats)", "-"),
        ("train_accuracy", "accuracy", "--"),
        ("test_accuracy", "accuracy", "-"),
    )
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
        for colour, (variant, history) in zip(COLOURS, histories.items(), strict=False):
            for metric, _, dashes in panels:
                axes = left if metric == "train_loss" else right
                values = np.asarray(history[metric])
                epochs = np.arange(1, len(values) + 1)
                split = {"train_accuracy": ", training", "test_accuracy": ", test"}
                label = variant + split.get(metric, "")
                mean, spread = values.mean(axis=1), values.std(axis=1)
                axes.plot(epochs, mean, dashes, color=colour, label=label)
                axes.fill_between(
                    epochs, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0
                )
        left.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
        left.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%.2g"))
        left.yaxis.set_minor_formatter(mpl.ticker.FormatStrFormatter("%.2g"))
        right.set(xlabel="epoch", ylabel="accuracy")
        floor = min(np.asarray(h["test_accuracy"]).min() for h in histories.values())
        right.set_ylim(max(0.7, floor - 0.05) if floor > 0.3 else 0.0, 1.0)
        for axes in (left, right):
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        left.legend()
        right.legend(loc="lower right", fontsize=8)
        figure.suptitle(title, fontsize=10)
        _save(figure, path)


def predictions(
    path: Path,
    images: np.ndarray,
    names: Sequence[tuple[str, str]],
    *,
    title: str,
) -> None:
    """Draw a strip of images, each under its true and its predicted class.

    Args:
      path: the PNG to write.
      images: grey, shape (n, height, width).
      names: of the true and the predicted class; a wrong one stands in orange.
      title: stands above the strip.
    """
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, len(images), figsize=(0.95 * len(images), 1.75))
        for axes, image, (true, predicted) in zip(row, images, names, strict=True):
            axes.imshow(image, cmap="gray_r")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_title(true, fontsize=8)
            right = true == predicted
            axes.set_xlabel(
                predicted,
                fontsize=8,
                color=COLOURS[2] if right else COLOURS[1],
                fontweight="normal" if right else "bold",
            )
        figure.suptitle(title, fontsize=9)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
