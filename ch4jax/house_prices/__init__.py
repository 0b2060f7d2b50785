"""Predicting house prices (D2L 5.7): tables, encoding, the book's model, submission."""

from ch4jax.house_prices._linear import (
    Encoded,
    Setting,
    encode,
    init_linear,
    linear,
    log_rmse,
    squared_log_error,
    train_linear,
    write_submission,
)
from ch4jax.house_prices.tables import HousePrices, read

__all__ = [
    "Encoded",
    "HousePrices",
    "Setting",
    "encode",
    "init_linear",
    "linear",
    "log_rmse",
    "read",
    "squared_log_error",
    "train_linear",
    "write_submission",
]
