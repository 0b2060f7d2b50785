"""Models of log house prices, many at once: what the search and the best recipe share.

Whatever is estimated for a fold (encoding, scaling, filling in, the mean of the log
prices) is estimated from the rows that the fold trains on.
"""

from typing import Any

import jax
import numpy as np
import pandas as pd
from jax import numpy as jnp

from ch4jax.house_prices import features as house_features
from ch4jax.house_prices import models as house_models
from ch4jax.house_prices.models import Architecture
from ch4jax.training import folds, sharding
from experiments.common import timing

ARCHITECTURES = {"linear": Architecture(hidden=(), waves=0), "mlp": Architecture()}
EPOCHS = 40
BATCH_SIZE = 128


def encode(data: Any, in_training: Any) -> Any:
    """Encode every row, of both tables, once for each fold.

    Args:
      data: the tables.
      in_training: shape (folds, training rows): what each fold may be fitted on.

    Returns:
      Shape (folds, training rows + test rows, features).
    """
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    tables = pd.concat([data.train, data.test], ignore_index=True)
    derived: Any = house_features.derive(tables)
    rest = np.zeros(len(data.test), bool)
    folds = []
    for rows in in_training:
        seen, log_seen = np.append(rows, rest), log_prices[rows]
        encoder = house_features.fit(derived[seen], log_seen)
        of_seen = house_features.encode(encoder, derived[seen], log_seen)
        x = np.empty((len(derived), of_seen.shape[1]), np.float32)
        x[seen] = of_seen
        x[~seen] = house_features.encode(encoder, derived[~seen])
        folds.append(x)
    return np.stack(folds)


def train(
    architecture: Architecture,
    settings: Any,
    data: Any,
    x: Any,
    in_training: Any,
    keys: Any,
    *,
    epochs: int | None,
) -> tuple[Any, float]:
    """Return log prices, (settings, folds, seeds, all rows), and the seconds taken.

    Each member of `keys`, (folds, seeds), is trained with each setting.
    """
    rest = len(data.test)  # no fold trains on them, so their log prices may be 0
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    predictions, seconds = timing.timed(
        lambda: house_models.train(
            architecture,
            house_models.Setting(*jnp.asarray(settings, float).T),
            jnp.asarray(x),
            jnp.asarray(np.pad(log_prices, (0, rest)), float),
            jnp.asarray(np.pad(in_training, ((0, 0), (0, rest)))),
            epochs=epochs or EPOCHS,
            batch_size=BATCH_SIZE,
            steps=folds.steps_per_epoch(in_training, BATCH_SIZE),
            keys=keys,
        )
    )
    return np.asarray(predictions, float), seconds


def draw_keys(config: Any, folds: int, *, key: Any) -> Any:
    """Return a key for each fold and seed, spread over the devices asked for."""
    drawn = jax.random.split(key, (folds, config.num_seeds))
    return over_devices(drawn, config.devices)


def over_devices(keys: Any, devices: int | None) -> Any:
    """Place the keys of members, (folds, seeds), so that each device has its seeds.

    Who is given them trains there. Where the devices do not divide the seeds, as for
    the one member that is trained on every row, each device trains all.
    """
    if devices is None:
        return keys
    mesh = sharding.make_mesh(devices)
    whole = sharding.spread(mesh, 1).whole
    divided = keys.shape[1] % mesh.size == 0
    return sharding.place(keys, sharding.along(mesh, 1) if divided else whole)


def held_out(predictions: Any, in_training: Any) -> Any:
    """Return what each row's fold, the one that left it out, says: (seeds, rows)."""
    own = predictions[..., : in_training.shape[-1]]
    return np.where(in_training[:, None, :], 0.0, own).sum(axis=0)
