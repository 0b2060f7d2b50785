"""The best recipe for house prices: an ensemble in which nothing leaks."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ch4jax.errors import DataError
from ch4jax.house_prices import models as house_models
from ch4jax.training import folds
from experiments.common.console import Report
from experiments.house_prices import members as house_members
from experiments.house_prices import outcome as house_outcome

# Learning rate, decay and dropout, chosen by cross-validation on the folds that the
# seeds 1 and 2 shuffle, not on those of seed 0.
CHOSEN = {"linear": (0.1, 0.02, 0.2), "mlp": (0.01, 1.5, 0.4)}
INNER_FOLDS = 6


def check_rows(rows: int, folds: int) -> None:
    """Raise DataError if an outer fold would be too small to be cut again."""
    smallest = rows - -(-rows // folds)
    if smallest < INNER_FOLDS:
        raise DataError(
            f"{rows} rows with prices in {folds} folds leave {smallest} to train on; "
            f"the best recipe needs at least {INNER_FOLDS}"
        )


class Ensembles(NamedTuple):
    """What several ensembles say of every row, of both tables, in log prices.

    Attributes:
      by_model: for each model, shape (ensembles, seeds, rows).
      weights: of the blend, shape (ensembles, models).
      blend: shape (ensembles, seeds, rows).
      seconds: for each model, compiling included.
    """

    by_model: dict[str, Any]
    weights: Any
    blend: Any
    seconds: dict[str, float]


def best(config: Any, data: Any, report: Report) -> dict[str, Any]:
    """Cross-validate the ensemble, then fit it to everything and submit."""
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    outer = folds.k_fold(len(log_prices), config.folds, seed=config.seed)
    everything = np.ones((1, len(log_prices)), bool)
    ensembles = train_ensembles(
        config, data, np.concatenate([outer, everything]), report
    )
    out_of_fold = {
        name: house_members.held_out(said[:-1], outer)
        for name, said in {**ensembles.by_model, "blend": ensembles.blend}.items()
    }
    by_fold = {
        name: np.array(
            [
                np.sqrt(np.square(said.mean(axis=0) - log_prices)[~fold].mean())
                for fold in outer
            ]
        )
        for name, said in out_of_fold.items()
    }
    show_ensembles(by_fold, ensembles.weights, report)
    summary = house_outcome.tell(data, out_of_fold["blend"], "best", report)
    of_test = ensembles.blend[-1].mean(axis=0)[len(log_prices) :]
    house_outcome.submit(data, np.exp(of_test), report)
    return {
        "log_rmse_by_fold": by_fold,
        "weights": ensembles.weights,
        "model_seconds": ensembles.seconds,
        **summary,
    }


def train_ensembles(config: Any, data: Any, owned: Any, report: Report) -> Ensembles:
    """Train an ensemble on each of several sets of rows, and on nothing else.

    An ensemble cuts its rows into inner folds, trains each model with each inner fold
    left out, and takes the weights of the blend from what these members say of the
    rows that they left out. It predicts by the weighted mean of its members in log
    space.

    Args:
      config: `seed`, `seeds`, `epochs` and `devices` count.
      data: the tables.
      owned: the rows of each ensemble, shape (ensembles, training rows).
      report: where to say how it goes.
    """
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    in_training = np.stack([inner_folds(own, config.seed) for own in owned])
    flat = in_training.reshape(-1, len(log_prices))
    x = house_members.encode(data, flat)
    key = jax.random.key(config.seed)
    members, seconds = {}, {}
    for i, (name, model) in enumerate(house_members.ARCHITECTURES.items()):
        predictions, seconds[name] = house_members.train(
            model,
            [CHOSEN[name]],
            data,
            x,
            flat,
            house_members.draw_keys(config, len(flat), key=jax.random.fold_in(key, i)),
            epochs=config.epochs,
        )
        members[name] = predictions.reshape(*in_training.shape[:2], -1, x.shape[1])
        count = predictions[..., 0].size
        report.say(f"{name}: {count} models in {seconds[name]:.0f} s, with compiling")

    weights = []
    for i, own in enumerate(owned):
        left_out = [
            house_members.held_out(said[i], in_training[i]).mean(axis=0)[own]
            for said in members.values()
        ]
        weights.append(house_models.blend_weights(np.stack(left_out), log_prices[own]))
    by_model = {name: said.mean(axis=1) for name, said in members.items()}
    blend = np.einsum("em,mesr->esr", weights, np.stack(list(by_model.values())))
    return Ensembles(by_model, np.stack(weights), blend, seconds)


def inner_folds(own: Any, seed: int) -> Any:
    """Cut the rows of an ensemble into inner folds; other rows are in none."""
    inner = np.zeros((INNER_FOLDS, own.size), bool)
    inner[:, own] = folds.k_fold(int(own.sum()), INNER_FOLDS, seed=seed)
    return inner


def show_ensembles(by_fold: dict[str, Any], weights: Any, report: Report) -> None:
    """Print the error of each model and of the blend in each outer fold."""
    cells = {
        name: [*(f"{weight:.2f}" for weight in column), ""]
        for name, column in zip(by_fold, weights[:-1].T, strict=False)
    }
    report.table(
        ["log RMSE", *(f"{name} (weight)" for name in cells), "blend"],
        [
            [
                f"fold {fold + 1}",
                *(f"{by_fold[name][fold]:.4f} ({cells[name][fold]})" for name in cells),
                f"{by_fold['blend'][fold]:.4f}",
            ]
            for fold in range(len(weights) - 1)
        ],
        title="outer folds, each with weights from inside it",
    )
    blend = by_fold["blend"]
    report.say(
        f"over the folds: {blend.mean():.4f} ±{blend.std(ddof=1):.4f} (deviation); "
        f"weights on all rows: {dict(zip(cells, weights[-1].tolist(), strict=True))}"
    )
