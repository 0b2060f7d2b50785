"""Claims about rows, inputs and the size of a network: who overfits, and who cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import training
from ch4jax.dropout import init_mlp, mlp
from ch4jax.training import Data, Metrics
from experiments.claims import dropout
from experiments.claims.claim import Finding, Setting
from experiments.common import memorisation, plots
from experiments.common.memorisation import Recipe
from experiments.common.networks import classifier

SOURCE = "4.4 and 4.6; D2L 3.6 and 5.6"


def regression(
    params: PyTree, x: Array, y: Array, *, key: PRNGKeyArray | None
) -> Metrics:
    """Return the squared error of each row; there may be no hidden layer."""
    predictions = mlp(params, x, [0.0] * (len(params) - 1), key=key)
    return {"loss": jnp.square(predictions[:, 0] - y)}


@classifier
def classification(params: PyTree, x: Array, *, key: PRNGKeyArray | None) -> Array:
    """Return the logits of each row."""
    return mlp(params, x, [0.0] * (len(params) - 1), key=key)


def fit(
    sizes: tuple[int, ...],
    data: Data,
    metrics_fn: training.MetricsFn,
    epochs: int,
    key: PRNGKeyArray,
) -> PyTree:
    """Return the parameters after each epoch of Adam on whole batches of 50 rows."""
    init_key, key = jax.random.split(key)
    _, path = training.fit(
        init_mlp(sizes, key=init_key),
        data,
        metrics_fn=metrics_fn,
        optimizer=optax.adam(3e-3),
        epochs=epochs,
        batch_size=50,
        key=key,
    )
    return path


def deep_networks_overfit(setting: Setting) -> Finding:
    """Claim 2: 200 rows of 20 features to a linear model and to a deep network."""
    rows, features, noise, epochs = 200, 20, 0.5, 100

    @jax.jit
    @jax.vmap
    def errors(key: PRNGKeyArray) -> Float[Array, "models splits epochs"]:
        w_key, x_key, noise_key, *keys = jax.random.split(key, 5)
        w = jax.random.normal(w_key, (features,)) / features**0.5
        x = jax.random.normal(x_key, (rows + 1000, features))
        y = x @ w + noise * jax.random.normal(noise_key, x.shape[:1])
        found = []
        for hidden, key in zip(((), (64, 64, 64)), keys, strict=True):
            sizes = (features, *hidden, 1)
            path = fit(sizes, (x[:rows], y[:rows]), regression, epochs, key)
            losses = jax.vmap(lambda params: regression(params, x, y, key=None)["loss"])
            squares = losses(path)
            found.append([squares[:, :rows].mean(1), squares[:, rows:].mean(1)])
        return jnp.array(found)

    found = np.asarray(errors(setting.keys(setting.size(32, 8))))
    with setting.figure(
        columns=2,
        sharey=True,
        title=f"{rows} rows of {features} features: the linear model generalises, the "
        "deep network learns the noise",
        caption="Training error and error on new rows against the epoch, mean and one "
        "standard deviation; dotted: the variance of the noise.",
        alt="Two line charts of the mean squared error against the epoch, for a linear "
        "model and for a deep network: training rows and new rows.",
    ) as panels:
        names = ("linear", "three hidden layers of 64")
        for axes, name, splits in zip(panels, names, found.swapaxes(0, 1), strict=True):
            for i, split in enumerate(("training rows", "new rows")):
                plots.band(axes, np.arange(1, epochs + 1), splits[:, i].T, label=split)
            axes.axhline(noise**2, color="0.3", ls=":")
            axes.set(xlabel="epoch", ylim=(0, 1.6))
            axes.set_title(name, fontsize=10)
        panels[0].set_ylabel("mean squared error")
        panels[0].legend()
    gap = found[:, :, 1, -1] - found[:, :, 0, -1]
    return Finding(
        "With ten times as many rows as features, a deep network overfits",
        "4.4; D2L 3.6",
        "MSE, new minus training rows, more than a linear model",
        0.1,
        {"": gap[:, 1] - gap[:, 0]},
    )


def more_data_helps(setting: Setting) -> Finding:
    """Claim 7: the book's network on 100 to 3,000 images."""
    runs, sizes = setting.size(6, 3), (100, 300, 1000, 3000)[: setting.size(4, 3)]
    keys, found = setting.keys(runs), []
    for rows in sizes:
        members = memorisation.members((dropout.NONE,), keys)
        curves = dropout.train(Recipe(rows=rows, epochs=30), members)
        found.append([curves.train["accuracy"][-1], curves.test["accuracy"][-1]])
    accuracies = 100 * np.array(found)  # (sizes, splits, runs)
    with setting.figure(
        title="More images close the gap between training and test accuracy",
        caption="Accuracy after 30 epochs against the number of training images.",
        alt="Line chart of training and test accuracy against the number of images on "
        "a logarithmic axis, with bands of one standard deviation.",
    ) as axes:
        for i, split in enumerate(("training images", "test images")):
            plots.band(axes, np.array(sizes), accuracies[:, i], label=split)
        axes.set(xlabel="training images", ylabel="accuracy (%)", xscale="log")
        axes.legend()
    gap = accuracies[:, 0] - accuracies[:, 1]
    return Finding(
        "Ten times as many images relieve overfitting",
        SOURCE,
        "points by which the gap in accuracy closes",
        2.0,
        {"": gap[0] - gap[2]},
    )


def interactions(setting: Setting) -> Finding:
    """Claim 21: two inputs whose product decides; then inputs against rows."""
    most, units, epochs = 512, 64, 60
    widths, rows = (2, 8, 32, 128), (32, 128, 512)

    def accuracy(
        sizes: tuple[int, ...], x: Array, y: Array, key: PRNGKeyArray
    ) -> Array:
        """Train on the first rows; return the accuracy there and on the others."""
        path = fit(sizes, (x[:most], y[:most]), classification, epochs, key)
        last = jax.tree.map(lambda leaf: leaf[-1], path)
        right = classification(last, x, y, key=None)["accuracy"]
        return jnp.stack([right[:most].mean(), right[most:].mean()])

    @jax.jit
    @jax.vmap
    def accuracies(key: PRNGKeyArray) -> tuple[Array, Array]:
        """Return test accuracies, linear and MLP, and gaps (widths, rows)."""
        x_key, flip_key, linear_key, mlp_key, grid_key = jax.random.split(key, 5)
        x = jax.random.normal(x_key, (most + 1000, max(widths)))
        product = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)
        linear = accuracy((2, 2), x[:, :2], product, linear_key)
        network = accuracy((2, units, 2), x[:, :2], product, mlp_key)

        flipped = jax.random.bernoulli(flip_key, 0.2, (len(x),))
        labels = ((x[:, 0] > 0) ^ flipped).astype(jnp.int32)

        def gap(size: Array) -> Array:
            width, num_rows = size
            seen = x * (jnp.arange(max(widths)) < width)[None, :]
            again = jnp.arange(most) % num_rows  # the first rows, over and over
            order = jnp.concatenate([again, jnp.arange(most, len(x))])
            sizes, own = (max(widths), units, 2), jax.random.clone(grid_key)
            train, new = accuracy(sizes, seen[order], labels[order], own)
            return train - new

        grid = jnp.array([(width, n) for width in widths for n in rows])
        gaps = jax.lax.map(gap, grid).reshape(len(widths), len(rows))
        return jnp.stack([linear[1], network[1]]), gaps

    found = accuracies(setting.keys(setting.size(16, 6)))
    scores, gaps = (100 * np.asarray(values) for values in found)
    with setting.figure(
        columns=2,
        title="A linear model knows no interaction; an MLP overfits the easier, the "
        "more inputs and the fewer rows",
        caption="Left: test accuracy where the product of two inputs decides, a dot a "
        "run. Right: training minus test accuracy, in points, where one input decides "
        "80% of the labels.",
        alt="On the left a dot chart of the test accuracy of a linear model and of an "
        "MLP; on the right a heat map of the gap in accuracy, inputs against rows.",
    ) as (dots, heat):
        for y, values in enumerate(scores.T):
            dots.plot(values, np.full(len(values), y), "o", alpha=0.5)
        dots.set_yticks(range(2), ["linear", "MLP"])
        dots.set(xlabel="test accuracy (%)", xlim=(40, 101), ylim=(1.5, -0.5))
        mean = gaps.mean(axis=0)
        heat.imshow(mean, cmap="Oranges", vmin=0)
        for (i, j), value in np.ndenumerate(mean):
            colour = "w" if value > mean.max() / 2 else "k"
            heat.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour)
        heat.set_xticks(range(len(rows)), rows)
        heat.set_yticks(range(len(widths)), widths)
        heat.set(xlabel="rows", ylabel="inputs")
        heat.grid(False)
    return Finding(
        "A linear model knows no interaction, and simple data overfit easily",
        "4.6; D2L 5.6",
        "points: MLP over linear; gap, few rows over many",
        20.0,
        {
            "the product of two inputs decides": scores[:, 1] - scores[:, 0],
            "32 rows of 128 inputs against 512 of 2": gaps[:, -1, 0] - gaps[:, 0, -1],
        },
    )
