"""Models of log house prices, many at once: what the search and the best recipe share.

Whatever is estimated for a fold (encoding, scaling, filling in, the mean of the log
prices) is estimated from the rows that the fold trains on.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key

from ch4jax.house_prices import HousePrices, features, models
from ch4jax.house_prices.models import Architecture, Setting
from ch4jax.training import folds, sharding
from experiments.common import timing
from experiments.common.console import say

ARCHITECTURES = {"linear": Architecture(hidden=(), waves=0), "mlp": Architecture()}
BATCH_SIZE = 128


class CrossValidation(NamedTuple):
    """Which models are trained, how long, and where.

    Attributes:
      seed: shuffles the folds, except the book's, and draws the keys.
      folds: how many.
      seeds: members of each fold.
      epochs: passes over the rows of a fold.
      mesh: devices that share the members of each fold.
    """

    seed: int
    folds: int
    seeds: int
    epochs: int
    mesh: Mesh


def log_of_prices(data: HousePrices) -> Float[np.ndarray, " rows"]:
    """Return the logarithm of each known price."""
    return np.log(data.train["SalePrice"].to_numpy(float))


def encode(
    data: HousePrices, in_training: Bool[np.ndarray, "folds rows"]
) -> Float[np.ndarray, "folds all_rows features"]:
    """Encode every row, of both tables, once for each fold.

    Args:
      data: the tables.
      in_training: the rows of the first table that each fold may be fitted on.
    """
    log_prices = log_of_prices(data)
    derived = features.derive(pd.concat([data.train, data.test], ignore_index=True))
    by_fold = []
    for rows in in_training:
        seen = np.append(rows, np.zeros(len(data.test), bool))
        encoder = features.fit(derived.loc[seen], log_prices[rows])
        of_seen = features.encode(encoder, derived.loc[seen], log_prices[rows])
        x = np.empty((len(derived), of_seen.shape[1]), np.float32)
        x[seen] = of_seen
        x[~seen] = features.encode(encoder, derived.loc[~seen])
        by_fold.append(x)
    return np.stack(by_fold)


def train(
    settings: Mapping[str, Sequence[Setting]],
    data: HousePrices,
    in_training: Bool[np.ndarray, "folds rows"],
    validation: CrossValidation,
) -> tuple[
    dict[str, Float[np.ndarray, "settings folds seeds all_rows"]], dict[str, float]
]:
    """Train every architecture with each of its settings, in each fold.

    Returns:
      For each architecture the log prices that its members predict, for the rows of
      both tables, and the seconds that it took.
    """
    rest = len(data.test)  # no fold trains on them, so their log prices may be 0
    x = jnp.asarray(encode(data, in_training))
    log_prices = jnp.asarray(np.pad(log_of_prices(data), (0, rest)), float)
    rows = jnp.asarray(np.pad(in_training, ((0, 0), (0, rest))))
    key, shape = jax.random.key(validation.seed), (len(in_training), validation.seeds)
    predictions, seconds = {}, {}
    for i, (name, architecture) in enumerate(ARCHITECTURES.items()):
        keys = jax.random.split(jax.random.fold_in(key, i), shape)
        work = partial(
            models.train,
            architecture,
            Setting(*jnp.asarray(settings[name], float).T),
            x,
            log_prices,
            rows,
            epochs=validation.epochs,
            batch_size=BATCH_SIZE,
            steps=folds.steps_per_epoch(in_training, BATCH_SIZE),
            keys=place(keys, validation.mesh),
        )
        trained, seconds[name] = timing.timed(work)
        predictions[name] = np.asarray(trained, float)
        count = predictions[name][..., 0].size
        say(f"{name}: {count} models in {seconds[name]:.0f} s, with compiling")
    return predictions, seconds


def place(keys: Key[Array, "folds seeds"], mesh: Mesh) -> Key[Array, "folds seeds"]:
    """Give each device the keys, and so the members, of its seeds.

    Where the devices do not divide the seeds, as for the one member that is trained on
    every row, each device trains all.
    """
    divided = keys.shape[1] % mesh.size == 0
    layout = sharding.along(mesh, 1) if divided else sharding.whole(mesh)
    return sharding.place(keys, layout)


def held_out(
    predictions: Float[np.ndarray, "folds seeds all_rows"],
    in_training: Bool[np.ndarray, "folds rows"],
) -> Float[np.ndarray, "seeds rows"]:
    """Return the prediction of each row by the fold that left it out."""
    own = predictions[..., : in_training.shape[-1]]
    return np.where(in_training[:, None, :], 0.0, own).sum(axis=0)
