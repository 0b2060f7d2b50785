"""Claims about dropout: its noise, overfitting, other regularisers, evaluation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import CLASSES, to_float
from ch4jax.dropout import mlp
from ch4jax.training import classification_metrics
from experiments.claims.claim import Finding, Setting
from experiments.common import memorisation, plots
from experiments.common.memorisation import Curves, Members, Recipe

NONE, HALF, BOOK = (0.0, 0.0), (0.5, 0.5), (0.2, 0.5)
SOURCE = "4.6; D2L 5.6"


def train(recipe: Recipe, members: Members) -> Curves:
    """Train on the shipped tenth, and evaluate after the last epoch only."""
    recipe, data = recipe._replace(every=recipe.epochs), fashion_mnist.load("mini")
    return memorisation.train(recipe, members, data.train, data.test)


def unbiased(setting: Setting) -> Finding:
    """Claim 3: take the mean over every mask of two layers of five units."""
    rate, units = 0.5, 5
    w_key, x_key = jax.random.split(jax.random.key(setting.seed))
    x = np.abs(np.asarray(jax.random.normal(x_key, (units,)), float))
    w = np.asarray(jax.random.normal(w_key, (2, units, units)), float)
    masks = every_mask(units, rate)

    # At a rate of one half all masks are equally likely.
    layer = masks * x
    linear = layer @ w[0]
    two = np.maximum((np.maximum(linear, 0)[:, None] * masks) @ w[1], 0)
    whole = np.maximum(np.maximum(x @ w[0], 0) @ w[1], 0)
    means = {
        "a layer": (layer.mean(axis=0), x),
        "a linear layer above it": (linear.mean(axis=0), x @ w[0]),
        "a whole network": (two.mean(axis=(0, 1)), whole),
    }
    apart = {
        name: np.linalg.norm(mean - output) / np.linalg.norm(output)
        for name, (mean, output) in means.items()
    }
    with setting.figure(
        height=2.6,
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
    digits = {name: np.array([-np.log10(max(x, 1e-16))]) for name, x in apart.items()}
    return Finding(
        "Dropout's noise is unbiased: the mean over masks is the output",
        SOURCE,
        "digits that the mean and the output share",
        6.0,
        digits,
        exact=True,
    )


def every_mask(units: int, rate: float) -> Float[np.ndarray, "masks units"]:
    """Return all masks of some units, rescaled as `dropout_layer` does."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=units))) / (1 - rate)


def overfitting(setting: Setting) -> Finding:
    """Claim 4: with and without dropout, on few images, with true and wrong labels."""
    runs, longer = setting.size(6, 4), setting.size(160, 80)
    keys = setting.keys(runs)
    scores = {}
    for rows, noise in itertools.product((300, 600), (0.0, 0.3)):
        recipe = Recipe(rows=rows, epochs=40)
        members = memorisation.members((NONE, HALF), keys, label_noise=noise)
        label = f"{rows} images, {noise:.0%} of labels redrawn"
        scores[label] = train(recipe, members).test
    members = memorisation.members((NONE, HALF), keys)
    recipe = Recipe(rows=600, epochs=longer)
    scores[f"600 images, {longer} epochs, not 40"] = train(recipe, members).test
    rows = setting.size(6000, 2000)
    recipe = Recipe(rows, 10, batch_size=256, optimizer="sgd", learning_rate=0.5)
    members = memorisation.members((NONE, BOOK), keys)
    scores[f"{rows:,} images, the book's recipe"] = train(recipe, members).test
    with setting.figure(
        columns=2,
        height=3.0,
        sharey=True,
        title="Dropout helps most where labels are wrong",
        caption="Test accuracy and test loss of each run. Where no label is redrawn "
        "the loss is lower even if the accuracy is not higher; trained longer, both "
        "losses are higher. With the book's recipe the runs differ more than dropout "
        "changes.",
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
        "Dropout reduces overfitting: the test accuracy rises",
        SOURCE,
        "percentage points of test accuracy",
        2.0,
        gains,
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
    """Claim 5: each combination of dropout, weight decay and a quarter of the units."""
    runs = setting.size(10, 3)
    recipe = Recipe(rows=setting.size(2000, 1000), epochs=40)
    keys = setting.keys(runs)
    variants = [
        memorisation.members((NONE, HALF), keys, label_noise=0.3, decay=decay)
        for decay in (0.0, 3.0)
    ]
    each = jax.tree.map(lambda *parts: jnp.concatenate(parts), *variants)
    scores = []
    for hidden in ((256, 256), (64, 64)):
        these = each._replace(keys=jax.random.clone(each.keys))
        curves = train(recipe._replace(hidden=hidden), these)
        scores.append(100 * curves.test["accuracy"][-1])
    names = ("none", "dropout", "weight decay", "dropout, weight decay")
    names += ("64 units", "dropout, 64 units", "weight decay, 64 units", "all three")
    each_score = np.concatenate(scores).reshape(8, runs)
    rows: dict[str, np.ndarray] = dict(zip(names, each_score, strict=True))
    with setting.figure(
        title="One control of the weights is enough; two together add little",
        caption=f"Test accuracy after {recipe.rows:,} images, 30% of labels redrawn.",
        alt="Dot chart of the test accuracy in each run, a row for each combination of "
        "dropout, weight decay 3 and 64 in place of 256 units.",
    ) as axes:
        for y, values in enumerate(rows.values()):
            axes.plot(values, np.full(runs, y), "o", alpha=0.5, lw=0)
            axes.plot(values.mean(), y, "|", color="k", ms=16, mew=2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%); the bar is the mean")

    def over_the_better(control: str) -> np.ndarray:
        alone = max(rows["dropout"], rows[control], key=np.mean)
        return rows[f"dropout, {control}"] - alone

    return Finding(
        "Dropout with control of the weights beats either alone",
        SOURCE,
        "points of accuracy over the better",
        2.0,
        {
            f"with {name}": over_the_better(name)
            for name in ("weight decay", "64 units")
        },
    )


def scores(
    logits: Float[Array, "rows classes"], labels: Int[Array, " rows"]
) -> Float[Array, " scores"]:
    """Return accuracy, loss, and the expected calibration error over ten bins.

    The last is how far confidence and accuracy are apart (Guo et al., 2017).
    """
    metrics = classification_metrics(logits, labels)
    confidence = jax.nn.softmax(logits).max(axis=1)
    bins = (10 * confidence).astype(int)
    apart = jax.ops.segment_sum(metrics["accuracy"] - confidence, bins, 11)
    error = jnp.abs(apart).sum() / len(labels)
    return jnp.stack([metrics["accuracy"].mean(), metrics["loss"].mean(), error])


def training_only(setting: Setting) -> Finding:
    """Claim 6: evaluate trained networks with masks, once and many times."""
    runs, draws = setting.size(16, 4), 64
    recipe = Recipe(rows=600, epochs=40)
    keys = setting.keys(runs)
    curves = train(recipe, memorisation.members((HALF,), keys))
    x, labels = fashion_mnist.load("mini").test
    labels = labels.astype(int)

    @jax.jit
    def masked(
        params: PyTree, x: Array, labels: Array, key: PRNGKeyArray
    ) -> Float[Array, "draws scores"]:
        """Return the scores of the mean probabilities of 1, 2, ... draws."""

        def add(total: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            logits = mlp(params["layers"], to_float(x), HALF, key=key)
            total = total + jax.nn.softmax(logits)
            mean = total / total.sum(axis=1, keepdims=True)
            return total, scores(jnp.log(mean), labels)

        start = jnp.zeros((len(labels), len(CLASSES)))
        return jax.lax.scan(add, start, jax.random.split(key, draws))[1]

    def whole(params: PyTree, x: Array, labels: Array) -> Float[Array, " scores"]:
        return scores(mlp(params["layers"], to_float(x), HALF, key=None), labels)

    mask_keys = setting.keys(runs, stream=1)
    drawn = jax.vmap(masked, (0, None, None, 0))(curves.params, x, labels, mask_keys)
    undropped = jax.vmap(whole, (0, None, None))(curves.params, x, labels)
    found, once = np.asarray(drawn), np.asarray(undropped)
    with setting.figure(
        columns=3,
        height=3.0,
        title="One mask costs accuracy; the mean over many costs none and is better "
        "calibrated",
        caption="Scores on the test images of the mean prediction over some masks; "
        "dashed: evaluated once, nothing dropped.",
        alt="Three line charts against the number of masks on a logarithmic axis: test "
        "accuracy, test loss and calibration error of the mean prediction, with a "
        "dashed line for one evaluation without masks.",
    ) as panels:
        names = ("accuracy", "loss", "calibration error")
        for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
            number = np.arange(1, draws + 1)
            plots.band(axes, number, found[..., i].T)
            axes.axhline(once[:, i].mean(), color=plots.COLOURS[1], ls="--")
            axes.set(xscale="log", xlabel="masks", ylabel=f"test {name}")
    lost = 100 * (once[:, 0] - found[..., 0].T)
    return Finding(
        "Dropout belongs to training only: masks cost accuracy in evaluation",
        SOURCE,
        "percentage points of test accuracy lost",
        0.5,
        {"one mask is drawn": lost[0], f"{draws} masks are averaged": lost[-1]},
    )
