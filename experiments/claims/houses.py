"""Claims about the house prices: Adam's learning rates, logarithms, cross-validation.

All train the book's linear model on the 1,460 shipped sales, which each run shuffles.
The features are scaled over all rows, as the book does it.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ch4jax import house_prices, training
from ch4jax.data import fashion_mnist
from ch4jax.dropout import init_mlp, mlp
from ch4jax.training import Data, Metrics, folds
from experiments.claims.claim import Finding, Setting
from experiments.common import plots
from experiments.common.networks import classifier

BATCH_SIZE = 64
DECADES = 5
RATES = np.logspace(0, DECADES, 40)  # in multiples of the lowest
Optimizer = optax.GradientTransformation


@cache
def _sales() -> Data:
    """Return the features and the prices of all sales."""
    data = house_prices.read("shipped")
    x = house_prices.encode(data.train, data.test).train
    prices = data.train["SalePrice"].to_numpy()
    return jnp.asarray(x, float), jnp.asarray(prices, float)


def _shuffled(data: Data, key: PRNGKeyArray) -> Data:
    order = jax.random.permutation(key, data[0].shape[0])
    return data[0][order], data[1][order]


def _fit(
    data: Data,
    in_training: Bool[np.ndarray, "folds rows"],
    optimizer: Optimizer,
    epochs: int,
    key: PRNGKeyArray,
) -> Float[Array, "folds rows"]:
    """Train the linear model in each fold; return what it predicts for every row."""

    def metrics(
        params: dict[str, Array], x: Array, targets: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        return {"loss": jnp.square(house_prices.linear(params, x) - targets)}

    def member(rows: Array, key: PRNGKeyArray) -> Array:
        init_key, train_key = jax.random.split(key)
        params, _ = folds.fit(
            house_prices.init_linear(data[0].shape[1], key=init_key),
            data,
            rows,
            metrics_fn=metrics,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=BATCH_SIZE,
            steps=folds.steps_per_epoch(in_training, BATCH_SIZE),
            watch=False,
            key=train_key,
        )
        return house_prices.linear(params, data[0])

    keys = jax.random.split(key, len(in_training))
    return jax.vmap(member)(jnp.asarray(in_training), keys)


def _house_error(sales: Data, optimizer: Optimizer, key: PRNGKeyArray) -> Array:
    """Return the log RMSE on a fifth of the sales, after the book's 100 epochs."""
    order_key, key = jax.random.split(key)
    sales = _shuffled(sales, order_key)
    in_training = folds.k_fold(len(sales[1]), 5)[:1]
    predicted = _fit(sales, in_training, optimizer, 100, key)
    squares = house_prices.squared_log_error(predicted[0], sales[1])
    return jnp.sqrt(squares.mean(where=~in_training[0]))


def _image_error(images: Data, optimizer: Optimizer, key: PRNGKeyArray) -> Array:
    """Return the share of other images that an MLP of 1,000 images mistakes."""
    order_key, init_key, key = jax.random.split(key, 3)
    x, labels = _shuffled(images, order_key)

    @classifier
    def metrics(params: PyTree, x: Array, *, key: PRNGKeyArray | None) -> Array:
        return mlp(params, fashion_mnist.to_float(x), (0.0, 0.0), key=key)

    params, _ = training.fit(
        init_mlp((14 * 14, 32, 32, 10), key=init_key),
        (x[:1000], labels[:1000]),
        metrics_fn=metrics,
        optimizer=optimizer,
        epochs=10,
        batch_size=16,
        key=key,
    )
    return 1 - metrics(params, x[1000:], labels[1000:], key=None)["accuracy"].mean()


@partial(jax.jit, static_argnames="error")
def _over_rates(
    error: Callable[..., Array], data: PyTree, rates: Array, keys: Array
) -> Float[Array, "runs optimizers rates"]:
    """Return the errors of Adam and SGD; all members of a run start alike."""

    def member(adam: Array, rate: Array, key: PRNGKeyArray) -> Array:
        # Which optimizer it is, is data: one program trains both.
        scale = optax.conditionally_transform(
            optax.scale_by_adam(), lambda step, **_: adam
        )
        return error(data, optax.chain(scale, optax.scale(-rate)), key)

    both = jax.vmap(jax.vmap(member, (None, 0, None)), (0, 0, None))
    return jax.lax.map(lambda key: both(jnp.array([True, False]), rates, key), keys)


def adam_forgives_the_rate(setting: Setting) -> Finding:
    """Claim 17: 40 learning rates for Adam and SGD, on images and on house prices.

    A step of Adam moves each weight by about the rate: on raw prices so many dollars,
    and small rates do not get far enough in 100 epochs. SGD's steps grow with the
    prices.
    """
    pixels, labels = fashion_mnist.load("mini").train
    images = pixels[:, ::2, ::2], labels  # a quarter of the work
    effects = {}
    with setting.figure(
        columns=2,
        height=3.4,
        title="Adam has more good learning rates than SGD on images, and not on raw "
        "house prices",
        caption="Good rates are under the dotted line, 10% above the least error. Over "
        "6 times the least is drawn at 6.",
        alt="Two line charts on logarithmic axes, images and house prices, of the "
        "error on new rows over the least of the run against the learning rate, for "
        "Adam and for SGD.",
        sharey=True,
    ) as panels:
        few, many = setting.size(12, 4), setting.size(48, 8)
        for axes, name, error, data, lowest, runs in (
            (panels[0], "images", _image_error, images, (1e-5, 1e-4), many),
            (panels[1], "house prices", _house_error, _sales(), (1.0, 1e-5), few),
        ):
            rates = np.array(lowest)[:, None] * RATES
            keys = setting.keys(runs)
            errors = _over_rates(error, data, jnp.asarray(rates, float), keys)
            errors = np.nan_to_num(np.asarray(errors), nan=np.inf)  # diverged
            ratios = errors / errors.min(axis=-1, keepdims=True)
            widths = (ratios <= 1.1).sum(axis=-1) * DECADES / (RATES.size - 1)
            effects[f"trained on {name}"] = widths[:, 0] - widths[:, 1]
            for i, optimizer in enumerate(("Adam", "SGD")):
                label = f"{optimizer}: {widths[:, i].mean():.1f} decades"
                drawn = np.minimum(ratios[:, i], 6).T
                plots.quantiles(axes, rates[i], drawn, label=label)
            axes.axhline(1.1, color="0.3", ls=":")
            axes.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(0.95, 9))
            axes.set_title(name, fontsize=10)
            axes.legend(loc="upper center", ncols=2, fontsize=8)
        plots.plain_numbers(panels[0].yaxis)
        panels[0].set_ylabel("error / least error")
    return Finding(
        "More learning rates suit Adam than SGD",
        "4.10; D2L 5.7",
        "more decades of rates within 10% of the best",
        0.2,  # a factor of 1.6
        effects,
    )


def relative_errors_want_logarithms(setting: Setting) -> Finding:
    """Claim 18: train on prices and on log prices, both standardised, and compare."""
    sales = _sales()
    in_training = folds.k_fold(len(sales[1]), 5)[:1]

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def errors(sales: Data, key: PRNGKeyArray) -> tuple[Array, Array]:
        """Return the prices left out, and the log error of both on each."""
        order_key, key = jax.random.split(key)
        x, prices = _shuffled(sales, order_key)
        squares = []
        for targets, back in ((prices, jnp.asarray), (jnp.log(prices), jnp.exp)):
            mean, scale = targets.mean(), targets.std()
            data, clone = (x, (targets - mean) / scale), jax.random.clone(key)
            (fitted,) = _fit(data, in_training, optax.adam(1e-3), 30, clone)
            predicted = back(mean + scale * fitted)
            squares.append(house_prices.squared_log_error(predicted, prices))
        left_out = ~in_training[0]
        return prices[left_out], jnp.sqrt(jnp.stack(squares)[:, left_out])

    true, found = errors(sales, setting.keys(setting.size(32, 12)))
    percent = 100 * np.asarray(found)  # (runs, targets, rows)
    tenths = np.arange(1, 11)
    edges = np.quantile(np.asarray(sales[1]), tenths[:-1] / 10)
    of_row = 1 + np.digitize(np.asarray(true), edges)[:, None]
    parts = [np.where(of_row == tenth, percent, np.nan) for tenth in tenths]
    typical = np.nanmedian(parts, axis=-1)  # (tenths, runs, targets)
    on_prices, on_logs = typical[0].mean(axis=0)
    with setting.figure(
        height=3.4,
        title=f"On the cheapest tenth, training on log prices errs by {on_logs:.0f}%, "
        f"training on prices by {on_prices:.0f}%",
        caption="Median error of each tenth of the houses: training on prices serves "
        "the dear houses, training on logarithms all alike.",
        alt="Line chart of the median relative error against the tenth of the price, "
        "for training on prices and on log prices.",
    ) as axes:
        for i, label in enumerate(("prices", "log prices")):
            plots.band(axes, tenths, typical[..., i], label=label)
        axes.set(xlabel="tenth of the prices, cheapest first", ylim=(0, None))
        axes.set(ylabel="100 |log error|, about percent", xticks=tenths)
        axes.legend(title="trained on")
    by_run = percent.mean(axis=-1)
    return Finding(
        "Training on log prices lowers the relative error",
        "4.10; D2L 5.7",
        "% of the price, mean over new houses, less",
        0.5,
        {"": by_run[:, 0] - by_run[:, 1]},
    )


def folds_foretell_the_error(setting: Setting) -> Finding:
    """Claim 19: the mean over k folds of 365 sales against the error on the others."""
    sales = _sales()
    own = np.arange(len(sales[1])) < 365
    num_folds = (2, 5, 10)
    in_training = np.zeros((1 + sum(num_folds), own.size), bool)
    in_training[:, own] = np.concatenate(
        [np.ones((1, 365), bool), *(folds.k_fold(365, k) for k in num_folds)]
    )

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def squares(sales: Data, key: PRNGKeyArray) -> Array:
        """Return the squared log error, trained on all 365 and in each fold."""
        order_key, key = jax.random.split(key)
        x, prices = _shuffled(sales, order_key)
        logs = jnp.log(prices)
        targets = (logs - 12) / 0.4  # about standardised
        fitted = _fit((x, targets), in_training, optax.adam(3e-3), 60, key)
        return jnp.square(0.4 * (fitted - targets[None]))

    found = np.asarray(squares(sales, setting.keys(setting.size(32, 12))))

    def rmse(of_fold: slice, where: Bool[np.ndarray, "..."]) -> np.ndarray:
        return np.sqrt(found[:, of_fold].mean(axis=-1, where=where))

    whole, apart = slice(0, 1), slice(1, None)
    new = rmse(whole, ~own)[:, 0]
    held_out = np.split(rmse(apart, own & ~in_training[1:]), [2, 7], axis=1)
    estimates = [rmse(whole, own), *held_out]
    off = [100 * (values.mean(axis=1) / new - 1) for values in estimates]
    names = ["training", *(f"{k} folds" for k in num_folds)]
    with setting.figure(
        columns=2,
        height=3.8,
        title=f"The mean of 10 folds is {off[3].mean():+.0f}% off the error on new rows"
        f" on average, the training error {off[0].mean():+.0f}%",
        caption="Left: rows that train (blue) and that are predicted (white) in each "
        "fold. Right: how far off the estimates are, with mean and deviation.",
        alt="On the left a line for each of 2, 5 and 10 folds, blue where a row "
        "trains; on the right a point for each run of the difference from the error on "
        "new rows, for the training error and for 2, 5 and 10 folds.",
    ) as (masks, misses):
        masks.imshow(
            in_training[1:, own], "Blues", vmax=1.6, aspect="auto", interpolation="none"
        )
        masks.set_yticks([0.5, 4, 11.5], names[1:])
        masks.hlines([1.5, 6.5], 0, 364, color="black")
        masks.grid(visible=False)
        masks.set(xlabel="row")
        for i, values in enumerate(off):
            mean, spread = values.mean(), values.std(ddof=1)
            at = np.full(values.size, i - 0.2)
            misses.plot(at, values, ".", color=plots.COLOURS[0], alpha=0.4)
            misses.errorbar(i, mean, spread, fmt="o", capsize=4, color=plots.COLOURS[1])
            misses.text(i + 0.07, mean + 2, f"{mean:+.0f} ± {spread:.0f}", fontsize=8)
        misses.axhline(0, color="0.3", ls=":")
        misses.set_xticks(range(4), names)
        misses.set(xlim=(-0.5, 3.8), ylabel="% off the error on new rows")
    nearer = [np.abs(off[0]) - np.abs(miss) for miss in off[1:]]
    return Finding(
        "K-fold foretells the error better than the training error",
        "4.10; D2L 5.7",
        "% of the error on new rows, nearer to it",
        10.0,
        {f"there are {name}": n for name, n in zip(names[1:], nearer, strict=True)},
    )
