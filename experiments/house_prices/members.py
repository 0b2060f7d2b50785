"""Many models of log prices at once, each on features fitted inside its fold."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from ch4jax.house_prices import HousePrices, features, models
from ch4jax.house_prices.features import Encoder
from ch4jax.house_prices.models import Architecture, Model, Setting
from ch4jax.training import folds, sharding
from experiments.common import timing
from experiments.common.console import progress

ARCHITECTURE = Architecture()
SHOW_EVERY = 5  # epochs


class CrossValidation(NamedTuple):
    """Which models are trained, how long, and where.

    Attributes:
      seed: shuffles the folds, except the book's, and draws the keys.
      folds: how many.
      repeats: how many times the rows are cut into folds; the book's, once.
      seeds: members of each fold.
      epochs: passes over the rows of a fold.
      batch_size: rows in a batch.
      mesh: devices that share the members of each fold.
    """

    seed: int
    folds: int
    repeats: int
    seeds: int
    epochs: int
    batch_size: int
    mesh: Mesh


class Trained(NamedTuple):
    """What `train` made.

    Attributes:
      models: leading with (settings, folds, seeds).
      predictions: the log prices of the rows of both tables.
      encoders: fitted inside each fold.
      seconds: that training took, compiling included.
    """

    models: Model
    predictions: Float[np.ndarray, "settings folds seeds all_rows"]
    encoders: Sequence[Encoder]
    seconds: float


def log_of_prices(data: HousePrices) -> Float[np.ndarray, " rows"]:
    """Return the logarithm of each known price."""
    return np.log(data.train["SalePrice"].to_numpy(float))


def encode(
    data: HousePrices, in_training: Bool[np.ndarray, "folds rows"]
) -> tuple[list[Encoder], Float[np.ndarray, "folds all_rows features"]]:
    """Encode every row, of both tables, once for each fold.

    Args:
      data: the tables.
      in_training: the rows of the first table that each fold may be fitted on.
    """
    log_prices = log_of_prices(data)
    derived = features.derive(pd.concat([data.train, data.test], ignore_index=True))
    encoders, by_fold = [], []
    for rows in in_training:
        seen = np.append(rows, np.zeros(len(data.test), bool))
        encoder = features.fit(derived.loc[seen], log_prices[rows])
        of_seen = features.encode(encoder, derived.loc[seen], log_prices[rows])
        x = np.empty((len(derived), of_seen.shape[1]), np.float32)
        x[seen] = of_seen
        x[~seen] = features.encode(encoder, derived.loc[~seen])
        encoders.append(encoder)
        by_fold.append(x)
    return encoders, np.stack(by_fold)


def train(
    label: str,
    settings: Float[np.ndarray, "settings folds fields"],
    data: HousePrices,
    in_training: Bool[np.ndarray, "folds rows"],
    validation: CrossValidation,
) -> Trained:
    """Train every setting, fold and seed in one program, and show how far it is."""
    rest = len(data.test)  # no fold trains on them, so their log prices may be 0
    encoders, x = encode(data, in_training)
    num_settings, num_folds, _ = settings.shape
    keys = jax.random.split(
        jax.random.key(validation.seed), (num_folds, validation.seeds)
    )
    with progress(label, validation.epochs) as step:

        def on_epoch(number: Int[Array, ""]) -> None:
            if int(number) and int(number) % SHOW_EVERY == 0:
                step(f"{num_settings * keys.size} models", SHOW_EVERY)

        work = partial(
            models.train,
            ARCHITECTURE,
            Setting(*jnp.moveaxis(jnp.asarray(settings, float), -1, 0)),
            jnp.asarray(x),
            jnp.asarray(np.pad(log_of_prices(data), (0, rest)), float),
            jnp.asarray(np.pad(in_training, ((0, 0), (0, rest)))),
            epochs=validation.epochs,
            batch_size=validation.batch_size,
            steps=folds.steps_per_epoch(in_training, validation.batch_size),
            keys=place(keys, validation.mesh),
            on_epoch=on_epoch,
        )
        (fitted, predictions), seconds = timing.timed(work)
        jax.effects_barrier()
        left = (validation.epochs - 1) % SHOW_EVERY + 1
        step(f"{seconds:.0f} s, with compiling", left)
    return Trained(fitted, np.asarray(predictions, float), encoders, seconds)


def place(keys: Key[Array, "folds seeds"], mesh: Mesh) -> Key[Array, "folds seeds"]:
    """Give each device the keys, and so the members, of its seeds.

    Where the devices do not divide the seeds, as for the one member that is trained on
    every row, each device trains all.
    """
    divided = keys.shape[1] % mesh.size == 0
    layout = sharding.along(mesh, 1) if divided else sharding.whole(mesh)
    return sharding.place(keys, layout)


def held_out(
    predictions: Float[np.ndarray, "folds *seeds all_rows"],
    in_training: Bool[np.ndarray, "folds rows"],
) -> Float[np.ndarray, "*seeds rows"]:
    """Return the prediction of each row by the fold that left it out."""
    own = predictions[..., : in_training.shape[-1]]
    fold = np.argmin(in_training, axis=0)  # the first that is false
    return np.moveaxis(own[fold, ..., np.arange(fold.size)], 0, -1)
