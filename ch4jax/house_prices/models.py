"""Models of log prices for the best recipe, and the ensembles that are made of them.

A model is a pair of pure functions, `init` and `predict`; members of an ensemble
differ in the rows they were trained on (`ch4jax.folds`) and in their seed.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from ch4jax.training import Metrics, MetricsFn, folds

Params = dict[str, Any]


class Setting(NamedTuple):
    """Hyperparameters; arrays, so that a program can map over them.

    Attributes:
      learning_rate: of Adam, at its peak.
      weight_decay: decoupled (AdamW), of the weights and not of the biases.
      dropout: probability of dropping a hidden unit; an input, half of it.
    """

    learning_rate: Any
    weight_decay: Any
    dropout: Any


class Model(NamedTuple):
    """An architecture and how long it is trained; hashable, so it picks a program.

    Attributes:
      hidden: width of each hidden layer; none makes a linear model.
      waves: how many of the first inputs get periodic embeddings.
      frequencies: waves for each of them.
      frequency_scale: deviation of the frequencies before training.
      huber: residual, in deviations of the log prices, from which the loss is linear.
      epochs: passes over the rows.
      batch_size: rows in a batch.
    """

    hidden: tuple[int, ...] = (128, 64)
    waves: int = 31
    frequencies: int = 5
    frequency_scale: float = 0.15
    huber: float = 0.3
    epochs: int = 40
    batch_size: int = 128

    def init(self, num_features: int, *, key: PRNGKeyArray) -> Params:
        """Draw parameters; the model predicts 0 before it is trained."""
        wave_key, phase_key, *layer_keys = jax.random.split(key, 2 + len(self.hidden))
        shape = (self.waves, self.frequencies)
        width = num_features + self.waves * self.frequencies
        params: Params = {
            "frequency": self.frequency_scale * jax.random.normal(wave_key, shape),
            "phase": jax.random.uniform(phase_key, shape, maxval=2 * jnp.pi),
            "shortcut": jnp.zeros(width),
            "layers": [],
            "bias": jnp.zeros(()),
        }
        for fan_out, layer_key in zip(self.hidden, layer_keys, strict=True):
            kernel_key, bias_key = jax.random.split(layer_key)
            kernel = jax.random.normal(kernel_key, (width, fan_out)) * width**-0.5
            bias = 0.3 * jax.random.normal(bias_key, (fan_out,))
            params["layers"].append({"kernel": kernel, "bias": bias})
            width = fan_out
        params["out"] = jnp.zeros(width if self.hidden else 0)
        return params

    def predict(
        self,
        params: Params,
        x: Float[Array, "rows features"],
        dropout: Any = 0.0,
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, " rows"]:
        """Return the prediction for each row; a key of None drops nothing.

        Periodic embeddings: cos(2πfx + φ) for learnt f and φ stands beside each
        number x (Gorishniy et al., 2022).
        """
        keys = iter([None] * 9 if key is None else jax.random.split(key, 9))
        angle = 2 * jnp.pi * x[:, : self.waves, None] * params["frequency"][None]
        waves = jnp.cos(angle + params["phase"][None]).reshape(len(x), -1)
        inputs = jnp.concatenate([x, waves], axis=1)
        inputs = _drop(inputs, dropout / 2, key=next(keys))
        hidden = inputs
        for layer in params["layers"]:
            hidden = jax.nn.silu(hidden @ layer["kernel"] + layer["bias"][None])
            hidden = _drop(hidden, dropout, key=next(keys))
        # Adam moves each of many weights as fast as each of few: slow them down.
        predictions = 0.1 * (inputs @ params["shortcut"]) + params["bias"]
        return predictions + hidden @ params["out"] if self.hidden else predictions


@partial(jax.jit, static_argnames=("model", "steps"))
def train(
    model: Model,
    settings: Setting,
    x: Float[Array, "folds rows features"],
    log_prices: Float[Array, " rows"],
    in_training: Bool[Array, "folds rows"],
    *,
    steps: int,
    keys: Key[Array, "folds seeds"],
) -> Float[Array, "settings folds seeds rows"]:
    """Train a model for each setting, fold and seed, and predict every row.

    Settings share parameters, batches and masks of dropout, so that they differ in
    nothing else; log prices are standardised within each fold.

    Args:
      model: the architecture.
      settings: each field of shape (settings,).
      x: every row as each fold encodes it, rows to predict included.
      log_prices: of every row; whatever is finite where no fold trains.
      in_training: the rows that each fold trains on.
      steps: see `folds.steps_per_epoch`.
      keys: of each member.
    """

    def member(setting: Setting, x: Array, rows: Array, key: PRNGKeyArray) -> Array:
        init_key, train_key = jax.random.split(key)
        mean = jnp.mean(log_prices, where=rows)
        deviation = jnp.std(log_prices, where=rows)
        # Each fold runs through the whole schedule, however many rows it has.
        num_steps = model.epochs * -(-rows.sum() // model.batch_size)
        params, _ = folds.fit(
            model.init(x.shape[-1], key=init_key),
            setting,
            (x, (log_prices - mean) / deviation),
            rows,
            recipe=partial(_recipe, model, num_steps),
            epochs=model.epochs,
            batch_size=model.batch_size,
            steps=steps,
            watch=False,
            key=train_key,
        )
        return mean + deviation * model.predict(params, x, key=None)

    by_seed = jax.vmap(member, (None, None, None, 0))
    by_fold = jax.vmap(by_seed, (None, 0, 0, 0))
    return jax.vmap(by_fold, (0, None, None, None))(settings, x, in_training, keys)


def _recipe(
    model: Model, num_steps: Array, setting: Setting
) -> tuple[MetricsFn, optax.GradientTransformation]:
    """Huber's loss, because a few sales are far off any trend, and AdamW."""

    def metrics(params: Params, x: Array, labels: Array, *, key: Any) -> Metrics:
        predictions = model.predict(params, x, setting.dropout, key=key)
        return {"loss": optax.huber_loss(predictions, labels, delta=model.huber)}

    def learning_rate(step: Any) -> Array:
        """Rise for a twentieth of the steps, then fall along a cosine to zero."""
        done = (step + 1) / num_steps
        bent = jnp.minimum(20 * done, 1.0) * (1 + jnp.cos(jnp.pi * done)) / 2
        return setting.learning_rate * bent

    return metrics, optax.adamw(
        learning_rate, b2=0.95, weight_decay=setting.weight_decay, mask=_is_weight
    )


def _is_weight(params: Params) -> Params:
    """Mark the kernels and the shortcut, and no bias, frequency or phase."""
    layers = [{"kernel": True, "bias": False} for _ in params["layers"]]
    weights = {"shortcut": True, "layers": layers, "out": True}
    return {name: weights.get(name, False) for name in params}


def blend_weights(
    predictions: Float[np.ndarray, "models rows"],
    log_prices: Float[np.ndarray, " rows"],
    huber: float = 0.1,
) -> Float[np.ndarray, " models"]:
    """Return the weights, in twentieths that add up to 1, of the least Huber loss.

    Args:
      predictions: log prices, of rows that the models were not trained on.
      log_prices: the true ones.
      huber: residual from which the loss is linear: with the squared loss, two sales
        in a thousand would set the weights.
    """
    parts = itertools.product(range(21), repeat=len(predictions))
    grid = np.array([weights for weights in parts if sum(weights) == 20]) / 20
    residuals = np.abs(grid @ predictions - log_prices[None, :])
    bent = np.minimum(residuals, huber)
    loss = (bent * (residuals - bent / 2)).mean(axis=1)
    return grid[loss.argmin()]


def _drop(h: Array, rate: Any, *, key: PRNGKeyArray | None) -> Array:
    if key is None:
        return h
    keep = jax.random.bernoulli(key, 1.0 - rate, h.shape)
    return jnp.where(keep, h / (1.0 - rate), 0.0)
