"""The lesson: a network without dropout memorises wrong labels, one with it does not.

The images are those of the shipped tenth, whatever else is on this machine, so that
everyone sees the same runs.
"""

from typing import Any

import jax
import numpy as np

from ch4jax.data import fashion_mnist
from ch4jax.statistics import Interval, mean_interval
from experiments.common import memorisation, plots
from experiments.common.console import say
from experiments.common.memorisation import Curves, Recipe
from experiments.common.run_folder import RunFolder

RATES = ((0.0, 0.0), (0.2, 0.5), (0.5, 0.5))
RUNS = 4


def show(
    seed: int, label_noise: float, rows: int, folder: RunFolder
) -> tuple[dict[str, Any], str]:
    """Train at three rates on images with wrong labels, print and draw.

    Args:
      seed: of the first of four runs; each draws images, wrong labels and parameters.
      label_noise: share of the labels that are drawn again.
      rows: images to learn from.
      folder: of the run.

    Returns:
      The numbers for the summary, and what they show, in a sentence.
    """
    data = fashion_mnist.load("mini")
    recipe = Recipe(rows=rows)
    share = f"{label_noise:.0%} of the labels drawn again"
    say(
        f"\nThe lesson: {rows:,} images of the shipped tenth with {share}, "
        f"{recipe.epochs} epochs of Adam, {RUNS} runs at each of {len(RATES)} rates "
        "(half a minute on two cores)"
    )
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), RUNS)
    curves = memorisation.train(
        recipe,
        memorisation.members(RATES, keys, label_noise=label_noise),
        data.train,
        data.test,
        label="lesson",
    )
    last = {
        "train_accuracy": curves.train["accuracy"][-1].reshape(-1, RUNS),
        "test_accuracy": curves.test["accuracy"][-1].reshape(-1, RUNS),
        "test_loss": curves.test["loss"][-1].reshape(-1, RUNS),
    }
    results = [
        {"rates": rates}
        | {name: values[i].mean() for name, values in last.items()}
        | {f"{name}_std": values[i].std(ddof=1) for name, values in last.items()}
        for i, rates in enumerate(RATES)
    ]
    folder.table(
        ["dropout rates", "train acc.", "test acc.", "test loss"],
        [
            [
                " ".join(map(str, entry["rates"])),
                *(f"{entry[name]:.3f} ±{entry[f'{name}_std']:.3f}" for name in last),
            ]
            for entry in results
        ],
        title=f"{share}: mean of {RUNS} runs ± standard deviation",
    )
    draw(curves, label_noise, folder)
    gain = mean_interval(last["test_accuracy"][-1] - last["test_accuracy"][0])
    return {
        "rows": rows,
        "label_noise": label_noise,
        "epochs": recipe.epochs,
        "runs": RUNS,
        "results": results,
        "effect": gain._asdict(),
    }, closing(gain, label_noise)


def closing(gain: Interval, label_noise: float) -> str:
    """Return what a gain in test accuracy shows, in a sentence.

    >>> closing(Interval(0.1, 0.05, 0.15), 0.3).partition(":")[0]
    'With 30% of the labels drawn again dropout raised the test accuracy'
    """
    effect, low, high = (100 * number for number in gain)
    did = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
    rates = " ".join(map(str, RATES[-1]))
    return (
        f"With {label_noise:.0%} of the labels drawn again dropout {did} the test "
        f"accuracy: {effect:+.1f} points at rates {rates} "
        f"(95% interval {low:+.1f} to {high:+.1f}, {RUNS} paired runs)."
    )


def draw(curves: Curves, label_noise: float, folder: RunFolder) -> None:
    """Draw training accuracy and test loss against the epoch."""
    # Orange learns by heart; the more dropout, the cooler.
    colours = [plots.COLOURS[i] for i in (1, 0, 2)]
    labels = "wrong labels" if label_noise else "its labels"
    with folder.figure(
        "lesson.png",
        columns=2,
        size=(8.5, 3.6),
        title=f"Without dropout, the network learns {labels} by heart "
        "and gets worse on new images",
        caption=f"With {label_noise:.0%} of the labels drawn again: what the network "
        f"makes of its own labels, and of new images; mean of {RUNS} runs and one "
        "standard deviation.",
        alt="Two line charts against the epoch, a colour for each pair of dropout "
        "rates: on the left the accuracy on the training images, on the right the loss "
        "on the test images, each with a band of one standard deviation over the runs.",
    ) as panels:
        for axes, values, ylabel in (
            (panels[0], curves.train["accuracy"], "accuracy on training labels"),
            (panels[1], curves.test["loss"], "loss on test images (nats)"),
        ):
            by_rate = np.split(values, len(RATES), axis=1)
            for rates, colour, runs in zip(RATES, colours, by_rate, strict=True):
                words = f"rates {rates[0]}, {rates[1]}" if any(rates) else "no dropout"
                plots.band(axes, curves.epochs, runs, color=colour, label=words)
            axes.set(xlabel="epoch", ylabel=ylabel)
        panels[0].legend(loc="lower right")
