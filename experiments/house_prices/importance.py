"""Which columns the best recipe needs: permutation importance (Breiman, 2001)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ch4jax import statistics
from ch4jax.house_prices import HousePrices, features, models
from ch4jax.house_prices.models import Model
from experiments.common.console import progress
from experiments.common.run_folder import RunFolder
from experiments.house_prices import members
from experiments.house_prices.members import Trained

SHOWN = 15


@jax.jit
def ensemble_log_prices(
    ensembles: Model, x: Float[Array, "folds rows features"]
) -> Float[Array, "folds rows"]:
    """Return the mean log price of the members of each fold."""
    of_fold = jax.vmap(jax.vmap(models.log_price, (0, None)))(ensembles, x)
    return of_fold.mean(axis=1)


def show(
    data: HousePrices,
    trained: Trained,
    outer: Bool[np.ndarray, "folds rows"],
    folder: RunFolder,
) -> dict[str, Any]:
    """Shuffle one column at a time; how much does the error of held-out rows rise?

    Returns:
      For each column the rise of the mean squared log error, in % of it, and its 95%
      interval over the rows.
    """
    log_prices = members.log_of_prices(data)
    ensembles = jax.tree.map(lambda leaf: leaf[0, : len(outer)], trained.models)
    size = int((~outer).sum(axis=1).max())  # folds may differ by one row: repeat one
    held_out = [np.resize(np.flatnonzero(~own), size) for own in outer]

    def squares(table: Any) -> Float[np.ndarray, " rows"]:
        derived = features.derive(table)
        x = [
            features.encode(encoder, derived.iloc[rows])
            for encoder, rows in zip(trained.encoders, held_out, strict=False)
        ]
        predicted = np.empty(log_prices.size)
        of_fold = ensemble_log_prices(ensembles, jnp.asarray(np.stack(x), float))
        predicted[np.stack(held_out)] = np.asarray(of_fold)
        return np.square(predicted - log_prices)

    usual = squares(data.train)
    columns = data.train.columns.drop(["Id", "SalePrice"])
    shuffle = partial(np.random.default_rng(0).permutation, log_prices.size)
    rises = {}
    with progress("importance", len(columns)) as step:
        for column in columns:
            values = data.train[column].to_numpy()[shuffle()]
            rise = squares(data.train.assign(**{column: values})) - usual
            rises[column] = statistics.mean_interval(100 * rise / usual.mean())
            if len(rises) % 20 == 0 or len(rises) == len(columns):
                step(column, (len(rises) - 1) % 20 + 1)
    order = sorted(rises, key=lambda column: -rises[column].estimate)
    draw({column: rises[column] for column in order[:SHOWN]}, folder)
    return {column: rises[column]._asdict() for column in order}


def draw(rises: dict[str, statistics.Interval], folder: RunFolder) -> None:
    """Draw the columns that matter most, with their intervals."""
    with folder.figure(
        "importance.png",
        size=(8.5, 4.6),
        title=f"{next(iter(rises))} matters most",
        caption="How much the mean squared log error of held-out houses rises when the "
        "values of a column are shuffled; 95% intervals over the houses.",
        alt="A bar for each of the columns that matter most, with its interval, of the "
        "rise of the squared error in percent.",
    ) as axes:
        values = np.array([tuple(interval) for interval in rises.values()]).T
        at = np.arange(len(rises))
        spread = np.stack([values[0] - values[1], values[2] - values[0]])
        axes.barh(at, values[0], xerr=spread, capsize=2)
        axes.set_yticks(at, list(rises))
        axes.set_xlabel("rise of the mean squared log error (%)")
        axes.invert_yaxis()
