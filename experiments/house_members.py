"""Models of log house prices, many at once: what the search and the best recipe share.

Whatever is estimated for a fold (encoding, scaling, filling in, the mean of the log
prices) is estimated from the rows that the fold trains on.
"""

from typing import Any


def models(config: Any) -> dict[str, Any]:
    """Return the architectures by name."""
    from ch4jax.house_models import Model

    epochs = config.epochs or 40
    return {
        "linear": Model(hidden=(), waves=0, epochs=epochs),
        "mlp": Model(epochs=epochs),
    }


def encode(data: Any, in_training: Any) -> Any:
    """Encode every row, of both tables, once for each fold.

    Args:
      data: the tables.
      in_training: shape (folds, training rows): what each fold may be fitted on.

    Returns:
      Shape (folds, training rows + test rows, features).
    """
    import numpy as np
    import pandas as pd

    from ch4jax import house_features

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
    model: Any, settings: Any, data: Any, x: Any, in_training: Any, seeds: int, key: Any
) -> tuple[Any, float]:
    """Return log prices, (settings, folds, seeds, all rows), and the seconds taken."""
    import jax
    import numpy as np
    from jax import numpy as jnp

    from ch4jax import folds, house_models, timing

    rest = len(data.test)  # no fold trains on them, so their log prices may be 0
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    predictions, seconds = timing.timed(
        lambda: house_models.train(
            model,
            house_models.Setting(*jnp.asarray(settings, float).T),
            jnp.asarray(x),
            jnp.asarray(np.pad(log_prices, (0, rest)), float),
            jnp.asarray(np.pad(in_training, ((0, 0), (0, rest)))),
            steps=folds.steps_per_epoch(in_training, model.batch_size),
            keys=jax.random.split(key, (len(x), seeds)),
        )
    )
    return np.asarray(predictions, float), seconds


def held_out(predictions: Any, in_training: Any) -> Any:
    """Return what each row's fold, the one that left it out, says: (seeds, rows)."""
    import numpy as np

    own = predictions[..., : in_training.shape[-1]]
    return np.where(in_training[:, None, :], 0.0, own).sum(axis=0)
