"""Claims about dropout: its noise, overfitting, other regularisers, evaluation."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import CLASSES, to_float
from ch4jax.dropout import mlp
from ch4jax.training import Data, classification_metrics
from experiments.claims.claim import Finding, Setting
from experiments.common import memorisation, plots
from experiments.common.memorisation import Curves, Members, Recipe

NONE, HALF, BOOK = (0.0, 0.0), (0.5, 0.5), (0.2, 0.5)
SOURCE = "4.6; D2L 5.6"


def images() -> tuple[Data, Data]:
    """Return the shipped tenth: training and test images with their labels."""
    data = fashion_mnist.load("mini")
    return (
        (jnp.asarray(data.train_images), jnp.asarray(data.train_labels)),
        (jnp.asarray(data.test_images), jnp.asarray(data.test_labels)),
    )


def train(recipe: Recipe, members: Members) -> Curves:
    """Train on the shipped tenth, and evaluate after the last epoch only."""
    recipe = recipe._replace(every=recipe.epochs)
    return memorisation.train(recipe, members, *images())


def unbiased(setting: Setting) -> Finding:
    """Claim 3: take the mean over every mask of two layers of five units."""
    rate, units = 0.5, 5
    w_key, x_key = jax.random.split(jax.random.key(setting.seed))
    x = np.abs(np.asarray(jax.random.normal(x_key, (units,)), float))
    w = np.asarray(jax.random.normal(w_key, (2, units, units)), float)
    masks = every_mask(units, rate)

    def relu(h: np.ndarray) -> np.ndarray:
        return np.maximum(h, 0.0)

    # At a rate of one half all masks are equally likely.
    layers = masks * x, x
    one, whole_one = (relu(h @ w[0]) for h in layers)
    two = (one[:, None] * masks) @ w[1]
    means = {
        "a layer": (layers[0].mean(axis=0), layers[1]),
        "a linear layer above it": ((layers[0] @ w[0]).mean(axis=0), x @ w[0]),
        "a whole network": (relu(two).mean(axis=(0, 1)), relu(whole_one @ w[1])),
    }
    apart = {
        name: np.linalg.norm(mean - output) / np.linalg.norm(output)
        for name, (mean, output) in means.items()
    }
    with setting.folder.figure(
        "claim03.png",
        size=(8.5, 2.6),
        title="Dropout keeps the mean of a layer, but not that of a whole network",
        caption="The mean over all masks, relative to the output without masks.",
        alt="Bar chart on a logarithmic axis: the relative difference between the mean "
        "output over all masks and the output without masks, of a layer, of a linear "
        "layer above it, and of a whole network.",
    ) as axes:
        axes.barh(list(apart), np.maximum(list(apart.values()), 1e-17))
        axes.set(
            xscale="log", xlim=(1e-18, 1), xlabel="relative difference (0 at 1e-17)"
        )
        axes.invert_yaxis()
    digits = {name: -np.log10(max(value, 1e-16)) for name, value in apart.items()}
    return Finding(
        3,
        "Dropout's noise is unbiased: the mean over masks is the output",
        SOURCE,
        "digits that the mean and the output share",
        6.0,
        {name: np.array([value]) for name, value in digits.items()},
        "claim03.png",
        exact=True,
    )


def every_mask(units: int, rate: float) -> Float[np.ndarray, "masks units"]:
    """Return all masks of some units, rescaled as `dropout_layer` does."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=units))) / (1 - rate)


def overfitting(setting: Setting) -> Finding:
    """Claim 4: with and without dropout, on few images, with true and wrong labels."""
    runs = setting.size(6, 3)
    keys = setting.keys(4, runs)
    scores = {}
    for rows, noise in itertools.product((300, 600), (0.0, 0.3)):
        recipe = Recipe(rows=rows, epochs=40)
        members = memorisation.members((NONE, HALF), keys, label_noise=noise)
        label = f"{rows} images, {noise:.0%} of labels redrawn"
        scores[label] = train(recipe, members).test
    recipe = Recipe(6000, 10, batch_size=256, optimizer="sgd", learning_rate=0.5)
    members = memorisation.members((NONE, BOOK), keys)
    scores["6,000 images, the book's recipe"] = train(recipe, members).test
    with setting.folder.figure(
        "claim04.png",
        1,
        2,
        size=(8.5, 3.0),
        sharey=True,
        title="Dropout helps most where labels are wrong",
        caption="Test accuracy and test loss of each run. Where no label is redrawn "
        "the loss is lower even if the accuracy is not higher; with the book's recipe "
        "the runs differ more than dropout changes.",
        alt="Two dot charts, a row for each number of images and share of wrong "
        "labels: test accuracy and test loss without and with dropout, a dot a run.",
    ) as panels:
        for axes, name in zip(panels, ("accuracy", "loss"), strict=True):
            for y, found in enumerate(scores.values()):
                dots(axes, y, found[name][-1].reshape(2, runs))
            axes.set(xlabel=f"test {name}")
        panels[0].set_yticks(range(len(scores)), list(scores), fontsize=8)
        panels[0].invert_yaxis()
        panels[0].figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
        )
    wrong, right = "30% of labels redrawn", "0% of labels redrawn"
    gains = {
        label: 100 * np.diff(scores[label]["accuracy"][-1].reshape(2, runs), axis=0)[0]
        for label in (f"{n} images, {w}" for w in (wrong, right) for n in (600, 300))
    }
    return Finding(
        4,
        "Dropout reduces overfitting: the test accuracy rises",
        SOURCE,
        "percentage points of test accuracy",
        2.0,
        gains,
        "claim04.png",
    )


def dots(
    axes: plots.Axes, y: float, values: Float[np.ndarray, "variants runs"]
) -> None:
    """Draw each run as a dot, a colour for each variant: without, then with dropout."""
    for i, words in enumerate(("no dropout", "dropout")):
        line = {"color": plots.COLOURS[1 - i], "alpha": 0.7, "lw": 0, "marker": "o"}
        heights = np.full(values.shape[1], y + 0.2 * i - 0.1)
        axes.plot(values[i], heights, label="" if y else words, **line)


def joint(setting: Setting) -> Finding:
    """Claim 5: dropout with smaller weights, and with fewer units, against either."""
    runs = setting.size(10, 3)
    keys = setting.keys(5, runs)
    recipe = Recipe(rows=1000, epochs=60)
    narrow = recipe._replace(hidden=(64, 64))
    half, none = ((rates,) for rates in (HALF, NONE))
    draw = partial(memorisation.members, keys=keys, label_noise=0.3)
    wide = [draw(half), draw(none, decay=3.0), draw(half, decay=3.0)]
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *wide)
    curves = train(recipe, together).test["accuracy"][-1]
    dropout, decay, decay_too = 100 * curves.reshape(3, runs)
    curves = train(narrow, draw(none + half)).test["accuracy"][-1]
    units, units_too = 100 * curves.reshape(2, runs)
    rows = {
        "dropout": dropout,
        "weight decay": decay,
        "dropout and weight decay": decay_too,
        "64 units": units,
        "dropout and 64 units": units_too,
    }
    with setting.folder.figure(
        "claim05.png",
        size=(8.5, 2.8),
        title="Dropout, two other controls of the weights, and dropout with each",
        caption="Test accuracy after 1,000 images with 30% of the labels redrawn.",
        alt="Dot chart of the test accuracy in each run: with dropout, with weight "
        "decay, with both, with fewer units, and with fewer units and dropout.",
    ) as axes:
        for y, values in enumerate(rows.values()):
            axes.plot(values, np.full(runs, y), "o", alpha=0.5, lw=0)
            axes.plot(values.mean(), y, "|", color="k", ms=16, mew=2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%); the bar is the mean")

    def over_the_better(both: np.ndarray, alone: np.ndarray) -> np.ndarray:
        return both - max(dropout, alone, key=np.mean)

    return Finding(
        5,
        "Dropout with control of the weights beats either alone",
        SOURCE,
        "percentage points of test accuracy over the better",
        1.0,
        {
            "with weight decay": over_the_better(decay_too, decay),
            "with a quarter of the units": over_the_better(units_too, units),
        },
        "claim05.png",
    )


def training_only(setting: Setting) -> Finding:
    """Claim 6: evaluate trained networks with masks, once and many times."""
    runs, draws = setting.size(16, 6), 64
    recipe = Recipe(rows=600, epochs=40)
    keys = setting.keys(6, runs)
    curves = train(recipe, memorisation.members((HALF,), keys))
    x, labels = images()[1]

    @jax.jit
    def masked(
        params: PyTree, x: Array, labels: Array, key: PRNGKeyArray
    ) -> Float[Array, "draws metrics"]:
        """Return accuracy and loss of the mean probabilities of 1, 2, ... draws."""

        def probabilities(key: PRNGKeyArray) -> Array:
            logits = mlp(params["layers"], to_float(x), HALF, key=key)
            return jax.nn.softmax(logits)

        def add(total: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            total = total + probabilities(key)
            mean = total / total.sum(axis=1, keepdims=True)
            metrics = classification_metrics(jnp.log(mean), labels)
            rows = jnp.stack([metrics["accuracy"], metrics["loss"]])
            return total, rows.mean(axis=1)

        start = jnp.zeros((len(labels), len(CLASSES)))
        return jax.lax.scan(add, start, jax.random.split(key, draws))[1]

    over_runs = jax.vmap(masked, (0, None, None, 0))
    mask_keys = setting.keys(106, runs)
    found = np.asarray(over_runs(curves.params, x, labels.astype(int), mask_keys))
    whole = {name: curves.test[name][-1] for name in ("accuracy", "loss")}
    with setting.folder.figure(
        "claim06.png",
        1,
        2,
        size=(8.5, 3.0),
        title="One mask costs accuracy; the mean over many costs none and has a lower "
        "loss",
        caption="Test accuracy and loss of the mean prediction over some masks; "
        "dashed: evaluated once, nothing dropped.",
        alt="Two line charts against the number of masks on a logarithmic axis: test "
        "accuracy and test loss of the mean prediction, with a dashed line for one "
        "evaluation without masks.",
    ) as panels:
        for i, (axes, name) in enumerate(zip(panels, whole, strict=True)):
            number = np.arange(1, draws + 1)
            plots.band(axes, number, found[..., i].T, colour=plots.COLOURS[0])
            axes.axhline(whole[name].mean(), color=plots.COLOURS[1], ls="--")
            axes.set(xscale="log", xlabel="masks", ylabel=f"test {name}")
    lost = 100 * (whole["accuracy"] - found[..., 0].T)
    return Finding(
        6,
        "Dropout belongs to training only: masks cost accuracy in evaluation",
        SOURCE,
        "percentage points of test accuracy lost",
        0.5,
        {"one mask is drawn": lost[0], f"{draws} masks are averaged": lost[-1]},
        "claim06.png",
    )
