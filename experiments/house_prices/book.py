"""The book's recipe for house prices: a linear model on raw prices."""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from ch4jax import house_prices
from ch4jax.training import folds, population
from experiments.common import plots, timing
from experiments.common.console import Report, count
from experiments.house_prices import members as house_members
from experiments.house_prices import outcome as house_outcome
from experiments.house_prices.outcome import plus_minus, spread

BOOK = {"learning_rate": 5.0, "weight_decay": 0.0, "batch_size": 64, "epochs": 100}


def book(config: Any, name: str) -> Any:
    """Return a flag, or the book's number if it is not given."""
    value = getattr(config, name)
    return BOOK[name] if value is None else value


def seed(config: Any, data: Any, report: Report) -> dict[str, Any]:
    """Cross-validate the book's model, then train it on everything and submit."""
    encoded = house_prices.encode(data.train, data.test)
    rows, features = encoded.train.shape
    report.say(
        f"features: {(rows + len(encoded.test), features)}, scaled over both tables as "
        "the book does it: the folds' errors are a little too small for that"
    )
    x = jnp.asarray(encoded.train, float)
    prices = jnp.asarray(data.train["SalePrice"].to_numpy(), float)
    setting = house_prices.Setting(
        *(
            jnp.array([book(config, n)], float)
            for n in ("learning_rate", "weight_decay")
        )
    )

    def split(key: Any) -> tuple[Any, Any]:
        fold_key, whole_key = jax.random.split(key)
        return jax.random.split(fold_key, config.folds), whole_key

    keys = population.seed_keys(config.seed, config.num_seeds)
    fold_keys, whole_keys = jax.vmap(split, out_axes=(1, 0))(keys)

    def fit(in_training: Any, keys: Any) -> Any:
        """Train a model for each mask and key; (params, curves, seconds)."""
        keys = house_members.over_devices(keys, config.devices)
        train, compile_seconds = timing.compile(
            house_prices.train_linear,
            setting,
            x,
            prices,
            in_training,
            epochs=book(config, "epochs"),
            batch_size=(batch_size := book(config, "batch_size")),
            steps=folds.steps_per_epoch(in_training, batch_size),
            keys=keys,
        )
        (params, history), seconds = timing.timed(
            lambda: train(setting, x, prices, in_training, keys=keys)
        )
        curves = {
            name.removesuffix("_squared_log_error"): np.sqrt(np.asarray(values[0]))
            for name, values in history.items()
            if name.endswith("log_error")
        }
        params = jax.tree.map(lambda leaf: leaf[0], params)
        return params, curves, {"compile": compile_seconds, "train": seconds}

    in_training = folds.k_fold(rows, config.folds)
    params, curves, seconds = fit(in_training, fold_keys)
    predict = jax.vmap(jax.vmap(house_prices.linear, (0, None)), (0, None))
    of_fold = np.asarray(predict(params, x))  # (folds, seeds, rows)
    out_of_fold = np.where(in_training[:, None, :], 0.0, of_fold).sum(axis=0)
    finals = {name: values[..., -1] for name, values in curves.items()}
    summary = show_folds(config, finals, seconds, report)
    for epoch in range(book(config, "epochs")):
        row = {f"{name}_log_rmse": v[..., epoch] for name, v in curves.items()}
        report.metrics(epoch=epoch + 1, **row)

    everything = np.ones((1, rows), bool)
    whole, whole_curves, _ = fit(everything, whole_keys[None, :1])
    report.say(f"on all rows: train log rmse {whole_curves['train'][0, 0, -1]:f}")
    draw_curves(config, curves, whole_curves, report)

    summary |= house_outcome.tell(
        data, np.log(np.maximum(out_of_fold, 1.0)), config.recipe, report
    )
    member = jax.tree.map(lambda leaf: leaf[0, 0], whole)
    predictions = house_prices.linear(member, jnp.asarray(encoded.test, float))
    house_outcome.submit(data, np.asarray(predictions, float), report)
    return summary


def show_folds(
    config: Any, finals: dict[str, Any], seconds: dict[str, float], report: Report
) -> dict[str, Any]:
    """Print the folds and their average; returns them for the summary."""
    num_seeds = finals["valid"].shape[1]
    report.table(
        ["log RMSE", "train", "valid", "valid, all seeds"],
        [
            [
                f"fold {fold + 1}",
                *(f"{finals[name][fold, 0]:.6f}" for name in ("train", "valid")),
                f"{valid.mean():.4f} {plus_minus(spread(valid))}",
            ]
            for fold, valid in enumerate(finals["valid"])
        ],
        title=f"{config.folds} folds, {count(num_seeds, 'seed')} from {config.seed}",
    )
    train, valid = (finals[name].mean(axis=0) for name in ("train", "valid"))
    report.say(
        f"{config.folds}-fold validation: avg train log rmse {train[0]:f}, avg valid "
        f"log rmse {valid[0]:f}; over the seeds {valid.mean():.4f} "
        + plus_minus(spread(valid))
    )
    report.say(
        f"{finals['valid'].size} models in {seconds['train']:.2f} s, after "
        f"{seconds['compile']:.1f} s of compiling"
    )
    return {
        "train_log_rmse": train.mean(),
        "valid_log_rmse": valid.mean(),
        "valid_log_rmse_over_seeds": valid,
        "valid_log_rmse_over_folds": finals["valid"].mean(axis=1),
        "model_seconds": seconds,
    }


def draw_curves(
    config: Any, curves: dict[str, Any], whole: dict[str, Any], report: Report
) -> None:
    """Draw fold 1, and the training on everything, against the epoch."""
    epochs = np.arange(1, book(config, "epochs") + 1)
    title = (
        f"linear model on raw prices, Adam at {book(config, 'learning_rate'):g}, "
        f"weight decay {book(config, 'weight_decay'):g}"
    )
    with plots.figure(
        report.folder / "curves.png", 1, 2, size=(8.5, 3.4), title=title
    ) as (fold, everything):
        for colour, (name, values) in zip(plots.COLOURS, curves.items(), strict=False):
            seeds = values[0].T
            plots.band(fold, epochs, seeds, colour=colour, label=name)
        everything.plot(epochs, whole["train"][0, 0], label="train")
        fold.set_title(
            f"fold 1, mean of {count(curves['train'].shape[1], 'seed')}", fontsize=10
        )
        everything.set_title("all rows, first seed", fontsize=10)
        ticks = [0.15, 0.2, 0.3, 0.5, 1, 2, 4]
        for axes in (fold, everything):
            axes.set(xlabel="epoch", ylabel="log RMSE", yscale="log")
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks([], minor=True)
            axes.legend()
