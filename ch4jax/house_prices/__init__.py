"""Predicting house prices (D2L 5.7): encoding, the book's model, the submission.

The tables are read by `ch4jax.house_prices.tables`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.export import register_namedtuple_serialization
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray, Real

from ch4jax.house_prices.tables import HousePrices as HousePrices
from ch4jax.house_prices.tables import read as read
from ch4jax.initialization import torch_bias
from ch4jax.storage import atomic
from ch4jax.training import Metrics, folds
from ch4jax.training.checks import check_member_keys, check_one_shape, check_rows


class Encoded(NamedTuple):
    """Features as numbers, one row a sale, and the name of each column."""

    train: Float[np.ndarray, "train features"]
    test: Float[np.ndarray, "test features"]
    names: list[str]


def encode(train: pd.DataFrame, test: pd.DataFrame, fit_on: str = "all") -> Encoded:
    """Turn features into numbers, as the book does.

    Numbers are standardised, and missing ones are 0 after that; each category gets a
    column of zeros and ones, and so does a missing one. `Id` and `SalePrice` are left
    out.

    Args:
      train: a table, see `read`.
      test: another.
      fit_on: `all` estimates means, deviations (ddof 1) and categories from both
        tables, as the book does, which leaks if you validate on `test`; `train`
        estimates them from the first, and a category unseen there becomes zeros.

    Raises:
      ValueError: if `fit_on` is neither.
    """
    if fit_on not in ("all", "train"):
        raise ValueError(f"fit_on must be 'all' or 'train', got {fit_on!r}")
    tables = [
        t.drop(columns=["Id", "SalePrice"], errors="ignore") for t in (train, test)
    ]
    fitted = pd.concat(tables) if fit_on == "all" else tables[0]
    both = pd.concat(tables)

    numbers = list(fitted.select_dtypes("number").columns)
    mean, scale = fitted[numbers].mean(), pd.Series(fitted[numbers].std())
    varies = fitted[numbers].max() > fitted[numbers].min()  # a constant has no scale
    scaled = (both[numbers] - mean.fillna(0.0)) / scale.where(varies, np.inf)
    scaled = scaled.where(both[numbers].notna(), 0.0)  # and not what infinity makes NaN

    blocks, names = [scaled.to_numpy(float)], numbers
    for column in fitted.columns.drop(numbers):
        kinds = sorted(fitted[column].dropna().unique(), key=str)
        values = both[column].to_numpy(object)[:, None]
        blocks.append(values == np.array(kinds, object)[None, :])
        blocks.append(both[column].isna().to_numpy()[:, None])
        names = [*names, *(f"{column}_{kind}" for kind in [*kinds, "nan"])]
    features = np.concatenate(blocks, axis=1, dtype=float)
    return Encoded(features[: len(train)], features[len(train) :], names)


def init_linear(num_features: int, *, key: PRNGKeyArray) -> dict[str, Array]:
    """Draw weights and bias as PyTorch's Linear does: U(-1/√features, 1/√features)."""
    weight_key, bias_key = jax.random.split(key)
    draw = torch_bias(num_features)  # PyTorch's kernel has the same distribution
    return {"w": draw(weight_key, (num_features,)), "b": draw(bias_key, ())}


def linear(
    params: dict[str, Array], x: Float[Array, "*rows features"]
) -> Float[Array, "*rows"]:
    """Return a price in dollars for each row."""
    return x @ params["w"] + params["b"]


def squared_log_error(
    predictions: Real[Array, "*rows"], prices: Real[Array, "..."]
) -> Float[Array, "*rows"]:
    """Return (log prediction - log price)², with predictions raised to at least 1.

    >>> squared_log_error(jnp.array([100.0, -5.0]), jnp.array([100.0, 1.0])).tolist()
    [0.0, 0.0]

    Raises:
      ValueError: if the shapes differ; (rows, 1) and (rows,) would broadcast.
    """
    check_one_shape(predictions=predictions, prices=prices)
    # In half precision the logs of most houses are equal.
    dtype = jnp.result_type(predictions, prices, jnp.float32)
    predictions = jnp.maximum(predictions.astype(dtype), 1.0)
    return jnp.square(jnp.log(predictions) - jnp.log(prices.astype(dtype)))


def log_rmse(
    predictions: Real[Array, "*rows"], prices: Real[Array, "..."]
) -> Float[Array, ""]:
    """Return the root mean of `squared_log_error`, the metric of the competition.

    Raises:
      ValueError: as `squared_log_error` does, and if there are no rows.
    """
    check_rows(predictions=predictions)
    return jnp.sqrt(squared_log_error(predictions, prices).mean())


@partial(
    register_namedtuple_serialization, serialized_name="ch4jax.house_prices.Setting"
)
class Setting(NamedTuple):
    """Hyperparameters of Adam; arrays, so that a program can map over them.

    Attributes:
      learning_rate: step size.
      weight_decay: this times each parameter, the bias included, is added to the
        gradient, as in PyTorch's Adam.
    """

    learning_rate: float | Float[Array, "..."]
    weight_decay: float | Float[Array, "..."]


@partial(jax.jit, static_argnames=("epochs", "batch_size", "steps"))
def train_linear(
    settings: Setting,
    x: Float[Array, "rows features"],
    prices: Float[Array, " rows"],
    in_training: Bool[Array, "folds rows"],
    *,
    epochs: int,
    batch_size: int,
    steps: int,
    keys: Key[Array, "folds seeds"],
) -> tuple[dict[str, Array], Metrics]:
    """Train the book's model for each setting, fold and seed in one program.

    Args:
      settings: each field of shape (settings,). All share the initial parameters and
        the batches of a fold and seed.
      x: features.
      prices: in dollars; the loss is their mean squared error.
      in_training: the rows that each fold trains on.
      epochs: passes over them.
      batch_size: rows in a batch.
      steps: see `folds.steps_per_epoch`.
      keys: of each member: split in two, for `init_linear` and for `folds.fit`.

    Returns:
      The parameters, leading with (settings, folds, seeds), and the history of `fit`
      with (settings, folds, seeds, epochs).

    Raises:
      ValueError: as `folds.fit` and `population.seed_keys` do.
    """
    check_member_keys(keys)

    def member(
        setting: Setting, rows: Array, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], Metrics]:
        init_key, train_key = jax.random.split(key)
        l2 = optax.add_decayed_weights(setting.weight_decay)
        return folds.fit(
            init_linear(x.shape[-1], key=init_key),
            (x, prices),
            rows,
            metrics_fn=_metrics,
            optimizer=optax.chain(l2, optax.adam(setting.learning_rate)),
            epochs=epochs,
            batch_size=batch_size,
            steps=steps,
            watch=True,
            key=train_key,
        )

    by_seed = jax.vmap(member, (None, None, 0))
    by_fold = jax.vmap(by_seed, (None, 0, 0))
    return jax.vmap(by_fold, (0, None, None))(settings, in_training, keys)


def _metrics(
    params: dict[str, Array], x: Array, prices: Array, *, key: PRNGKeyArray | None
) -> Metrics:
    predictions = linear(params, x)
    return {
        "loss": jnp.square(predictions - prices),
        "squared_log_error": squared_log_error(predictions, prices),
    }


def write_submission(
    path: str | Path, ids: Sequence[int] | np.ndarray, prices: Real[np.ndarray, "..."]
) -> None:
    """Write `Id,SalePrice` for the competition, in cents, by atomic replace.

    Raises:
      ValueError: if an Id occurs twice or is no whole number, there is not one price
        for each, or a price is not a positive number; nothing is written then.
    """
    ids, prices = np.asarray(ids), np.asarray(prices)
    if ids.dtype.kind not in "iu" or ids.shape != prices.shape or ids.ndim != 1:
        raise ValueError(
            "expected whole Ids and prices of one shape (rows,), got "
            f"{ids.dtype} of shape {ids.shape} and prices of shape {prices.shape}"
        )
    if np.unique(ids).size != ids.size:
        raise ValueError("an Id occurs twice")
    cents = prices.astype(float).round(2)
    bad = np.flatnonzero(~(np.isfinite(cents) & (cents > 0)))
    if bad.size:
        raise ValueError(
            f"the price of Id {ids[bad[0]]} must be positive, got {prices[bad[0]]}"
        )
    with atomic.writing(atomic.resolve(path)) as part:
        pd.DataFrame({"Id": ids, "SalePrice": cents}).to_csv(part, index=False)
