"""Nested cross-validation of log prices: choose inside each fold, score outside.

Every outer fold, and the table as a whole, is a set of rows that owns an ensemble. It
cuts its rows into inner folds, chooses the hyperparameters with the least error on what
these leave out, trains its members on all its rows, and averages their log prices.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ch4jax import statistics
from ch4jax.house_prices import HousePrices
from ch4jax.training import folds
from experiments.common import plots
from experiments.common.console import say
from experiments.common.run_folder import RunFolder
from experiments.house_prices import importance, members, outcome, references
from experiments.house_prices.members import CrossValidation, Trained

# Peak learning rates, weight decays and dropout rates.
GRIDS = {
    "best": ((0.01,), (0.5, 1.5), (0.2, 0.3)),
    "search": ((0.005, 0.01, 0.02), (0.5, 1.5), (0.1, 0.2, 0.3)),
}
INNER_FOLDS = 3
NAMES = ("learning rate", "decay", "dropout")


def run(
    data: HousePrices, validation: CrossValidation, recipe: str, folder: RunFolder
) -> dict[str, Any]:
    """Score the recipe beside its references, then fit it to everything and submit."""
    say("several hundred perceptrons: about four minutes on two cores")
    log_prices = members.log_of_prices(data)
    rows, k = len(log_prices), validation.folds
    outer = np.concatenate(
        [
            folds.k_fold(rows, k, seed=validation.seed + repeat)
            for repeat in range(validation.repeats)
        ]
    )
    owned = np.concatenate([outer, np.ones((1, rows), bool)])
    grid = np.array(list(itertools.product(*GRIDS[recipe])))
    chosen, trained = train_ensembles(owned, grid, data, validation)
    predictions = trained.predictions[0]
    show_choices(chosen, k, folder)
    draw_folds(outer[:k], validation.seed, folder)
    by_seed = by_repeat(predictions[:-1], outer, k)
    candidates = {"MLP": by_seed.mean(axis=1)}
    others = references.fit(data, outer)
    candidates |= {name: by_repeat(of, outer, k) for name, of in others.items()}
    if "boosting" in candidates:
        pair = np.stack([candidates["MLP"], candidates["boosting"]])
        candidates["MLP + boosting"] = blend_outside(pair, log_prices, outer)
    scores = compare(candidates, data, outer, folder)
    summary = outcome.show(data, by_seed[0], recipe, folder)
    importances = importance.show(data, trained, outer[:k], folder)
    outcome.submit(
        data,
        np.exp(predictions[-1].mean(axis=0)[rows:]),
        candidates["MLP"][0] - log_prices,
        outer[:k],
        folder,
    )
    return {
        "chosen": [dict(zip(NAMES, setting, strict=True)) for setting in chosen],
        "scores": scores,
        "importance": importances,
        "model_seconds": trained.seconds,
        **summary,
    }


def train_ensembles(
    owned: Bool[np.ndarray, "ensembles rows"],
    grid: Float[np.ndarray, "settings fields"],
    data: HousePrices,
    validation: CrossValidation,
) -> tuple[Float[np.ndarray, "ensembles fields"], Trained]:
    """Choose hyperparameters and train, for each set of rows and from nothing else.

    Args:
      owned: the rows of each ensemble.
      grid: the hyperparameters to choose from; a single row leaves no choice.
      data: the tables.
      validation: how many members, and how to train them.

    Returns:
      The hyperparameters of each ensemble, in the order of a grid, and its members.
    """
    chosen = np.repeat(grid[:1], len(owned), axis=0)
    if len(grid) > 1:
        inner = np.stack([inner_folds(own, validation.seed) for own in owned])
        flat = inner.reshape(-1, owned.shape[1])
        every = np.repeat(grid[:, None], len(flat), axis=1)
        one = validation._replace(seeds=validation.mesh.size)
        predicted = members.train("choosing", every, data, flat, one).predictions
        # (settings, ensembles, inner folds, rows)
        predicted = predicted[..., : owned.shape[1]].mean(axis=2)
        predicted = predicted.reshape(len(grid), *inner.shape)
        squares = np.square(predicted - members.log_of_prices(data))
        left_out = owned[:, None] & ~inner
        errors = squares.mean(axis=(2, 3), where=left_out[None])
        chosen = grid[errors.argmin(axis=0)]
    return chosen, members.train("training", chosen[None], data, owned, validation)


def inner_folds(
    own: Bool[np.ndarray, " rows"], seed: int
) -> Bool[np.ndarray, "folds rows"]:
    """Cut the rows of an ensemble into inner folds; other rows are in none."""
    inner = np.zeros((INNER_FOLDS, own.size), bool)
    inner[:, own] = folds.k_fold(int(own.sum()), INNER_FOLDS, seed=seed)
    return inner


def by_repeat(
    predictions: Float[np.ndarray, "folds *seeds all_rows"],
    outer: Bool[np.ndarray, "folds rows"],
    k: int,
) -> Float[np.ndarray, "repeats *seeds rows"]:
    """Return what the folds of each repeat predict for the rows that they left out."""
    starts = range(0, len(outer), k)
    return np.stack(
        [members.held_out(predictions[i : i + k], outer[i : i + k]) for i in starts]
    )


def blend_outside(
    pair: Float[np.ndarray, "2 repeats rows"],
    log_prices: Float[np.ndarray, " rows"],
    outer: Bool[np.ndarray, "folds rows"],
) -> Float[np.ndarray, "repeats rows"]:
    """Add the second to the first, by a weight from the rows of the other folds.

    The weight, in 0 to 1, has the least squared error there.
    """
    blended = np.empty_like(pair[0])
    k = len(outer) // pair.shape[1]
    for i, rows in enumerate(outer):
        first, second = pair[:, i // k]
        gap = second - first
        weight = (gap @ (rows * (log_prices - first))) / (gap @ (rows * gap))
        blended[i // k, ~rows] = (first + np.clip(weight, 0, 1) * gap)[~rows]
    return blended


def compare(
    candidates: dict[str, Float[np.ndarray, "repeats rows"]],
    data: HousePrices,
    outer: Bool[np.ndarray, "folds rows"],
    folder: RunFolder,
) -> dict[str, dict[str, Any]]:
    """Show the errors of every candidate, and their differences from the first."""
    log_prices = members.log_of_prices(data)
    prices, usual = np.exp(log_prices), ~outcome.deciding(data)
    repeats = len(next(iter(candidates.values())))
    left_out = ~outer.reshape(repeats, -1, log_prices.size)
    scores, of_first = {}, None
    for name, predicted in candidates.items():
        squares = np.square(predicted - log_prices)
        each = np.broadcast_to(squares[:, None], left_out.shape)
        by_fold = np.sqrt(each.mean(axis=-1, where=left_out))
        of_first = by_fold if of_first is None else of_first
        dollars = np.sqrt(np.square(np.exp(predicted) - prices).mean(axis=1))
        scores[name] = {
            "log_rmse": np.sqrt(squares.mean(axis=1)).mean(),
            "log_rmse_usual": np.sqrt(squares[:, usual].mean(axis=1)).mean(),
            "dollars": dollars.mean(),
            "log_rmse_by_fold": by_fold,
            "difference": statistics.folds_interval(by_fold - of_first),
        }
    folder.table(
        ["nested", "log RMSE", "without them", "RMSE, $", "minus the MLP's, 95%"],
        [
            [
                name,
                f"{of['log_rmse']:.4f}",
                f"{of['log_rmse_usual']:.4f}",
                f"{of['dollars']:,.0f}",
                "{:+.4f} ({:+.4f} to {:+.4f})".format(*of["difference"])
                if of_first is not of["log_rmse_by_fold"]
                else "",
            ]
            for name, of in scores.items()
        ],
        title=f"{len(outer)} outer folds; without the Ids "
        f"{' and '.join(map(str, outcome.DECIDING))} in the second column",
    )
    draw_scores(scores, folder)
    return scores


def show_choices(
    chosen: Float[np.ndarray, "ensembles fields"], k: int, folder: RunFolder
) -> None:
    """Print what each outer fold of the first repeat, and the whole table, chose."""
    rows = [*chosen[:k], chosen[-1]]
    names = [*(f"fold {i}" for i in range(1, k + 1)), "all rows"]
    folder.table(
        ["chosen inside", *NAMES],
        [
            [name, *(f"{value:g}" for value in setting)]
            for name, setting in zip(names, rows, strict=True)
        ],
    )


def draw_folds(
    outer: Bool[np.ndarray, "folds rows"], seed: int, folder: RunFolder
) -> None:
    """Draw which rows train, choose and score in each outer fold."""
    order = np.argsort(np.argmin(outer, axis=0), kind="stable")  # by the fold
    colours = [plots.COLOURS[1], "0.85", plots.COLOURS[0]]
    with folder.figure(
        "folds.png",
        size=(8.5, 3.2),
        title="No row that scores a fold trains it, or chooses for it",
        caption="Rows, sorted by the outer fold that scores them. The first inner fold "
        "trains on the grey ones and chooses by the blue ones.",
        alt="A line for each outer fold: the rows that score it, the rows that its "
        "first inner fold chooses by, and the rows that this trains on.",
    ) as axes:
        inner = np.stack([inner_folds(own, seed)[0] for own in outer])
        kinds = np.where(outer, np.where(inner, 1, 2), 0)[:, order]
        colour_map = plots.ListedColormap(colours)
        axes.imshow(kinds, cmap=colour_map, aspect="auto", interpolation="nearest")
        for colour, label in zip(colours, ("scores", "trains", "chooses"), strict=True):
            axes.plot([], [], "s", color=colour, label=label)
        names = [f"fold {i}" for i in range(1, len(outer) + 1)]
        axes.set_yticks(range(len(outer)), names)
        axes.set(xlabel="row, sorted by its outer fold")
        axes.grid(visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def draw_scores(scores: dict[str, dict[str, Any]], folder: RunFolder) -> None:
    """Draw the error of every candidate in each outer fold."""
    with folder.figure(
        "scores.png",
        size=(8.5, 0.5 * len(scores) + 1.6),
        title=f"{min(scores, key=lambda name: scores[name]['log_rmse'])} errs least",
        caption="Nested log RMSE: a dot is an outer fold, a bar all rows.",
        alt="A line for each model with a dot for each outer fold's log RMSE and a bar "
        "at the log RMSE over all rows.",
    ) as axes:
        for i, of in enumerate(scores.values()):
            values = of["log_rmse_by_fold"].ravel()
            axes.plot(values, np.full(values.size, i), ".", alpha=0.5)
            axes.plot(of["log_rmse"], i, "|", color="black", markersize=18)
            axes.text(of["log_rmse"], i - 0.32, f"{of['log_rmse']:.4f}", ha="center")
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set(xlabel="log RMSE", ylim=(len(scores) - 0.5, -0.7))
