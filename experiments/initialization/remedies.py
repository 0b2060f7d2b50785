"""What `experiments.initialization` trains: one hidden layer, and thirty."""

from typing import Any

import numpy as np

from ch4jax.deep_mlp import unit_spread
from ch4jax.training import population
from experiments.common import plots
from experiments.common.console import Report, count
from experiments.common.errors import Failed
from experiments.initialization.networks import COMPARISONS, Network, Recipe, train


def show_symmetry(config: Any, data: Any, report: Report) -> dict[str, Any]:
    """Train one hidden layer from constant and from random weights."""
    epochs = min(config.epochs, 5)
    results = {}
    with plots.figure(
        report.folder / "symmetry.png",
        2,
        8,
        size=(8.5, 2.5),
        title=f"Weights of eight units of one hidden layer after {epochs} epochs, "
        "as images",
    ) as panels:
        for row, init in zip(panels, ("constant 0.01", "N(0, 0.01²)"), strict=True):
            fitted = train(
                Recipe(Network("ReLU", init), 0.1),
                data,
                report,
                width=config.width,
                depth=1,
                epochs=epochs,
                keys=population.seed_keys(config.seed, 1),
            )
            kernel = fitted.states.params.first.kernel[0]
            results[init] = {
                "largest_difference": unit_spread(kernel),
                "test_accuracy": fitted.history["test_accuracy"][-1].mean(),
            }
            scale = float(np.abs(kernel[:, :8]).max())
            for axes, unit in zip(row, np.asarray(kernel).T, strict=False):
                axes.imshow(unit.reshape(28, 28), cmap="RdBu", vmin=-scale, vmax=scale)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(init, fontsize=9)
    for init, result in results.items():
        spread, accuracy = result.values()
        report.say(
            f"one hidden layer from {init}: units differ by at most {spread:.2g}, "
            f"test accuracy {accuracy:.3f}"
        )
    return results


def show_remedies(config: Any, data: Any, report: Report) -> list[dict[str, Any]]:
    """Train every recipe once, print a table, draw each remedy beside what fails."""
    histories, results = {}, []
    for recipe in dict.fromkeys(sum(COMPARISONS.values(), ())):
        result: dict[str, Any] = {"recipe": recipe.label, "diverged": False}
        try:
            fitted = train(
                recipe,
                data,
                report,
                width=config.width,
                depth=config.depth,
                epochs=config.epochs,
                keys=population.seed_keys(config.seed, config.seeds),
            )
        except Failed as error:
            # Some are here to fail; the others have to be shown beside them.
            report.say(f"diverged: {str(error).partition(';')[0]}")
            result["diverged"] = True
        else:
            histories[recipe] = fitted.history
            result["train_loss"] = fitted.final["loss"].mean()
            result["test_accuracy"] = fitted.history["test_accuracy"][-1]
        results.append(result)

    report.table(
        ["", "train loss", "test acc.", "worst seed"],
        [
            [result["recipe"], "diverged", "", ""]
            if result["diverged"]
            else [
                result["recipe"],
                f"{result['train_loss']:.3f}",
                f"{result['test_accuracy'].mean():.3f}",
                f"{result['test_accuracy'].min():.3f}",
            ]
            for result in results
        ],
        title=f"{config.depth} hidden layers, {config.epochs} epochs",
    )
    draw_remedies(config, histories, report)
    return results


def draw_remedies(config: Any, histories: dict[Any, Any], report: Report) -> None:
    """Draw test accuracy against the epoch, a panel for each comparison."""
    # What stays at chance lies on one line: no two dashes alike.
    dashes = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))
    epochs = np.arange(1, config.epochs + 1)
    with plots.figure(
        report.folder / "remedies.png",
        2,
        2,
        size=(8.5, 7.6),
        title=f"{config.depth} hidden layers of {config.width} on the tenth, learning "
        f"rate 0.01 unless named, mean of {count(config.seeds, 'seed')}",
    ) as panels:
        for axes, (title, recipes) in zip(
            panels.flat, COMPARISONS.items(), strict=True
        ):
            for i, recipe in enumerate(recipes):
                line = {"colour": plots.COLOURS[i], "linestyle": dashes[i]}
                label, values = recipe.label, np.full((len(epochs), 1), np.nan)
                if recipe in histories:
                    values = histories[recipe]["test_accuracy"]
                else:
                    label += ": diverged"
                plots.band(axes, epochs, values, label=label, **line)
            axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 0.9))
            axes.set_title(title, fontsize=10)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))
