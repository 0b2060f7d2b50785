"""What `experiments.initialization` trains: one hidden layer, and thirty."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ch4jax.deep_mlp import unit_spread
from experiments.common import plots
from experiments.common.console import count, say
from experiments.common.errors import Failed
from experiments.common.loop import Trained
from experiments.initialization.networks import (
    COMPARISONS,
    VARIANTS,
    Setting,
    Variant,
    train,
)


def show_symmetry(setting: Setting) -> dict[str, dict[str, Any]]:
    """Train one hidden layer from constant and from random weights."""
    setting = setting._replace(depth=1, epochs=min(setting.epochs, 5), seeds=1)
    results = {}
    with setting.folder.figure(
        "symmetry.png",
        2,
        8,
        size=(8.5, 2.5),
        title="From a constant, all units of a layer stay copies of each other",
        caption="Weights of eight units of one hidden layer after "
        f"{count(setting.epochs, 'epoch')}, as images.",
        alt="Two rows of eight small images, the weights of eight hidden units: above "
        "from a constant start, below from a random one.",
    ) as panels:
        for row, init in zip(panels, ("constant 0.01", "N(0, 0.01²)"), strict=True):
            trained = train(Variant("ReLU", init, learning_rate=0.1), setting)
            kernel = trained.states.params.first.kernel[0]
            results[init] = {
                "largest_difference": unit_spread(kernel),
                "test_accuracy": trained.history["test_accuracy"][-1].mean(),
            }
            scale = float(np.abs(kernel[:, :8]).max())
            for axes, unit in zip(row, np.asarray(kernel).T, strict=False):
                axes.imshow(unit.reshape(28, 28), cmap="RdBu", vmin=-scale, vmax=scale)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(init, fontsize=9)
    rows = [
        [init, f"{r['largest_difference']:.2g}", f"{r['test_accuracy']:.3f}"]
        for init, r in results.items()
    ]
    columns = ["one hidden layer from", "largest difference of units", "test acc."]
    setting.folder.table(columns, rows)
    return results


def show_remedies(setting: Setting) -> list[dict[str, Any]]:
    """Train every variant, print a table, draw each remedy beside what fails."""
    trained: dict[Variant, Trained] = {}
    results: list[dict[str, Any]] = []
    rows = []
    for variant in VARIANTS:
        try:
            trained[variant] = train(variant, setting)
        except Failed as error:
            # Some are expected to diverge; the others are shown beside them.
            say(f"diverged: {str(error).partition(';')[0]}")
            results.append({"recipe": variant.label, "diverged": True})
            rows.append([variant.label, "diverged", "", ""])
            continue
        loss = trained[variant].final["loss"].mean()
        scores = trained[variant].history["test_accuracy"][-1]
        result = {"diverged": False, "train_loss": loss, "test_accuracy": scores}
        results.append({"recipe": variant.label, **result})
        numbers = (loss, scores.mean(), scores.min())
        rows.append([variant.label, *(f"{n:.3f}" for n in numbers)])
    setting.folder.table(
        ["", "train loss", "test acc.", "worst seed"],
        rows,
        title=f"{setting.depth} hidden layers, {count(setting.epochs, 'epoch')}",
    )
    draw_remedies(setting, trained)
    return results


def draw_remedies(setting: Setting, trained: Mapping[Variant, Trained]) -> None:
    """Draw test accuracy against the epoch, a panel for each comparison."""
    epochs = np.arange(1, setting.epochs + 1)
    scores = [of.history["test_accuracy"][-1].mean() for of in trained.values()]
    learnt = sum(score > 0.15 for score in scores)  # chance is 0.1
    with setting.folder.figure(
        "remedies.png",
        2,
        2,
        size=(8.5, 7.6),
        title=f"{learnt} of {len(VARIANTS)} networks with {setting.depth} hidden "
        "layers learn",
        caption="Each remedy beside the network that fails without it: hidden layers "
        f"of {setting.width}, learning rate 0.01 unless named, mean of "
        f"{count(setting.seeds, 'seed')}.",
        alt="Four line charts of the test accuracy against the epoch: initialisation "
        "and activation, residual connections, layer normalisation, and gradient "
        "clipping, a line for each network.",
    ) as panels:
        for axes, (title, variants) in zip(
            panels.flat, COMPARISONS.items(), strict=True
        ):
            for variant, style in zip(variants, plots.DASHES, strict=False):
                label, values = variant.label, np.full((len(epochs), 1), np.nan)
                if variant in trained:
                    values = trained[variant].history["test_accuracy"]
                else:
                    label += ": diverged"
                plots.band(axes, epochs, values, label=label, linestyle=style)
            axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 0.9))
            axes.set_title(title, fontsize=10)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))
