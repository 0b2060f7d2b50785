"""Training as pure functions: one model, populations, folds, and several devices."""

from ch4jax.training._epoch import (
    Batch,
    Data,
    Metrics,
    MetricsFn,
    TrainState,
    batch_rows,
    classification_metrics,
    evaluate,
    fit,
    init_state,
    train_epoch,
    train_step,
)

__all__ = [
    "Batch",
    "Data",
    "Metrics",
    "MetricsFn",
    "TrainState",
    "batch_rows",
    "classification_metrics",
    "evaluate",
    "fit",
    "init_state",
    "train_epoch",
    "train_step",
]
