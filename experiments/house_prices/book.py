"""The book's recipe for house prices: a linear model on raw prices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from ch4jax import house_prices
from ch4jax.house_prices import HousePrices, Setting
from ch4jax.training import folds, population
from experiments.common import plots, timing
from experiments.common.console import count, say
from experiments.common.run_folder import RunFolder
from experiments.house_prices import members, outcome
from experiments.house_prices.members import CrossValidation
from experiments.house_prices.outcome import plus_minus

# Log RMSE in training and validation, by name.
Curves = Mapping[str, Float[np.ndarray, "folds seeds epochs"]]


def run(
    data: HousePrices, validation: CrossValidation, setting: Setting, folder: RunFolder
) -> dict[str, Any]:
    """Cross-validate the book's model, then train it on everything and submit."""
    encoded = house_prices.encode(data.train, data.test)
    rows, features = encoded.train.shape
    say(
        f"features: {(rows + len(encoded.test), features)}, scaled over both tables as "
        "the book does it: the folds' errors are a little too small for that"
    )
    x = jnp.asarray(encoded.train, float)
    prices = jnp.asarray(data.train["SalePrice"].to_numpy(), float)
    setting = Setting(*(jnp.array([number], float) for number in setting))

    def fit(
        in_training: Bool[np.ndarray, "folds rows"], keys: Key[Array, "folds seeds"]
    ) -> tuple[dict[str, Array], Curves, dict[str, float]]:
        """Train a model for each fold and key; returns parameters, curves, seconds."""
        keys = members.place(keys, validation.mesh)
        arrays = setting, x, prices, in_training
        train, compile_seconds = timing.compile(
            house_prices.train_linear,
            *arrays,
            epochs=validation.epochs,
            batch_size=validation.batch_size,
            steps=folds.steps_per_epoch(in_training, validation.batch_size),
            keys=keys,
        )
        (params, history), seconds = timing.timed(lambda: train(*arrays, keys=keys))
        curves = {
            name: np.sqrt(np.asarray(history[f"{name}_squared_log_error"][0]))
            for name in ("train", "valid")
        }
        params = jax.tree.map(lambda leaf: leaf[0], params)
        return params, curves, {"compile": compile_seconds, "train": seconds}

    in_training = folds.k_fold(rows, validation.folds)
    keys = population.seed_keys(validation.seed, validation.seeds)
    seed_keys, whole_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    split = jax.vmap(lambda key: jax.random.split(key, validation.folds), out_axes=1)
    params, curves, seconds = fit(in_training, split(seed_keys))
    summary = show_folds(curves, seconds, validation, folder)
    for epoch in range(validation.epochs):
        row = {f"{name}_log_rmse": v[..., epoch] for name, v in curves.items()}
        folder.metrics(epoch=epoch + 1, **row)

    everything = np.ones((1, rows), bool)
    whole, whole_curves, _ = fit(everything, whole_keys[None, :1])
    say(f"on all rows: train log rmse {whole_curves['train'][0, 0, -1]:f}")
    draw_curves(curves, whole_curves["train"][0, 0], folder)

    predict = jax.vmap(jax.vmap(house_prices.linear, (0, None)), (0, None))
    of_fold = np.asarray(predict(params, x))  # (folds, seeds, rows)
    out_of_fold = members.held_out(of_fold, in_training)
    logs = np.log(np.maximum(out_of_fold, 1.0))
    summary |= outcome.show(data, logs, "book", folder)
    member = jax.tree.map(lambda leaf: leaf[0, 0], whole)
    predictions = house_prices.linear(member, jnp.asarray(encoded.test, float))
    outcome.submit(
        data,
        np.asarray(predictions, float),
        logs.mean(axis=0) - members.log_of_prices(data),
        in_training,
        folder,
    )
    return summary


def show_folds(
    curves: Curves,
    seconds: dict[str, float],
    validation: CrossValidation,
    folder: RunFolder,
) -> dict[str, Any]:
    """Print the folds and their average; returns them for the summary."""
    train, valid = (curves[name][..., -1] for name in ("train", "valid"))
    folder.table(
        ["log RMSE", "train", "valid", "valid, all seeds"],
        [
            [f"fold {i + 1}", f"{train[i, 0]:.6f}", f"{of[0]:.6f}", plus_minus(of)]
            for i, of in enumerate(valid)
        ],
        title=f"{validation.folds} folds, {count(validation.seeds, 'seed')} from "
        f"{validation.seed}",
    )
    of_seed = valid.mean(axis=0)
    say(
        f"{validation.folds}-fold validation: avg train log rmse "
        f"{train.mean(axis=0)[0]:f}, avg valid log rmse {of_seed[0]:f}; over the seeds "
        f"{plus_minus(of_seed)}"
    )
    below = np.flatnonzero(valid.mean(axis=1) < train.mean(axis=1)) + 1
    if below.size:
        where = ", ".join(f"fold {fold}" for fold in below)
        say(
            "Validation lies below training where the rows held out have fewer of the "
            f"houses that are hard to predict: {where}."
        )
    say(
        f"{valid.size} models in {seconds['train']:.2f} s, after "
        f"{seconds['compile']:.1f} s of compiling"
    )
    return {
        "train_log_rmse": train.mean(axis=0).mean(),
        "valid_log_rmse": of_seed.mean(),
        "valid_log_rmse_over_seeds": of_seed,
        "valid_log_rmse_over_folds": valid.mean(axis=1),
        "model_seconds": seconds,
    }


def draw_curves(
    curves: Curves, whole: Float[np.ndarray, " epochs"], folder: RunFolder
) -> None:
    """Draw every fold, and the training on everything, against the epoch."""
    train, valid = (values[..., -1].mean() for values in curves.values())
    with folder.figure(
        "curves.png",
        1,
        2,
        size=(8.5, 3.4),
        title=f"After {whole.size} epochs the log RMSE is {train:.4f} in training, "
        f"{valid:.4f} in validation",
        caption="How far the book's linear model gets in its epochs, a line each fold.",
        alt="Two line charts of the log RMSE against the epoch: on the left training "
        "and validation error of every fold, on the right the training error of the "
        "model that is fitted to all rows.",
        sharey=True,
    ) as (each, everything):
        epochs = np.arange(1, whole.size + 1)
        for colour, (name, values) in zip(plots.COLOURS, curves.items(), strict=False):
            lines = each.plot(epochs, values.mean(axis=1).T, color=colour, lw=1)
            lines[0].set_label(name)
        everything.plot(epochs, whole, label="train")
        seeds = count(curves["train"].shape[1], "seed")
        each.set_title(f"each fold, mean of {seeds}", fontsize=10)
        everything.set_title("all rows, first seed", fontsize=10)
        ticks = [0.15, 0.2, 0.3, 0.5, 1, 2, 4]
        for axes in (each, everything):
            axes.set(xlabel="epoch", ylabel="log RMSE", yscale="log")
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks([], minor=True)
            axes.legend()
