"""The perceptron of the best recipe on log prices, trained many times at once.

A model is an `Architecture` and two pure functions, `init` and `predict`. Members of an
ensemble differ in the rows they are trained on (`ch4jax.training.folds`) and in their
seed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.export import register_namedtuple_serialization
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from ch4jax.dropout import mask_and_rescale
from ch4jax.training import Metrics, folds
from ch4jax.training.checks import check_member_keys

HUBER = 0.3  # residual, in deviations of the log prices, from which the loss is linear


@partial(
    register_namedtuple_serialization,
    serialized_name="ch4jax.house_prices.models.Setting",
)
class Setting(NamedTuple):
    """Hyperparameters; arrays, so that a program can map over them.

    Attributes:
      learning_rate: of Adam, at its peak.
      weight_decay: decoupled (AdamW), of the kernels.
      dropout: probability of dropping an input or a hidden unit.
    """

    learning_rate: float | Float[Array, "..."]
    weight_decay: float | Float[Array, "..."]
    dropout: float | Float[Array, "..."]


class Architecture(NamedTuple):
    """SiLU layers; hashable, so jit can take it as static.

    Attributes:
      hidden: width of each hidden layer.
      waves: how many of the first inputs get periodic embeddings.
      frequencies: waves for each of them.
      frequency_scale: deviation of the frequencies before training.
    """

    hidden: tuple[int, ...] = (128, 64)
    waves: int = 31
    frequencies: int = 5
    frequency_scale: float = 0.15


class Model(NamedTuple):
    """A trained member, or many with leading axes.

    Attributes:
      params: see `init`.
      mean: of the log prices that it was trained on.
      deviation: of the same.
    """

    params: dict[str, PyTree]
    mean: Float[Array, "..."]
    deviation: Float[Array, "..."]


def init(
    architecture: Architecture, num_features: int, *, key: PRNGKeyArray
) -> dict[str, PyTree]:
    """Draw parameters; the model predicts 0 before it is trained."""
    hidden, waves, frequencies, frequency_scale = architecture
    wave_key, phase_key, *layer_keys = jax.random.split(key, 2 + len(hidden))
    shape, width = (waves, frequencies), num_features + waves * frequencies
    layers = []
    for fan_out, layer_key in zip(hidden, layer_keys, strict=True):
        kernel_key, bias_key = jax.random.split(layer_key)
        kernel = jax.random.normal(kernel_key, (width, fan_out)) * width**-0.5
        bias = 0.3 * jax.random.normal(bias_key, (fan_out,))
        layers.append({"kernel": kernel, "bias": bias})
        width = fan_out
    return {
        "frequency": frequency_scale * jax.random.normal(wave_key, shape),
        "phase": jax.random.uniform(phase_key, shape, maxval=2 * jnp.pi),
        "layers": [*layers, {"kernel": jnp.zeros((width, 1)), "bias": jnp.zeros(1)}],
    }


def predict(
    params: dict[str, PyTree],
    x: Float[Array, "rows features"],
    rate: float | Float[Array, ""] = 0.0,
    *,
    key: PRNGKeyArray | None,
) -> Float[Array, " rows"]:
    """Return the prediction for each row.

    Periodic embeddings: each of the first numbers x comes with cos(2πfx + φ) for learnt
    f and φ (Gorishniy et al., 2022).

    Args:
      params: see `init`.
      x: features.
      rate: see `Setting.dropout`.
      key: split between the layers. None evaluates: nothing is dropped.
    """
    frequency, phase, layers = (params[n] for n in ("frequency", "phase", "layers"))
    angle = 2 * jnp.pi * x[:, : len(frequency), None] * frequency[None]
    waves = jnp.cos(angle + phase[None]).reshape(len(x), -1)
    h = jnp.concatenate([x, waves], axis=1)
    for i, layer in enumerate(layers):
        if key is not None:
            h = mask_and_rescale(h, rate, key=jax.random.fold_in(key, i))
        h = h @ layer["kernel"] + layer["bias"][None]
        if i < len(layers) - 1:
            h = jax.nn.silu(h)
    return h[:, 0]


def log_price(model: Model, x: Float[Array, "rows features"]) -> Float[Array, " rows"]:
    """Return the log price that one member predicts for each row."""
    return model.mean + model.deviation * predict(model.params, x, key=None)


@partial(
    jax.jit,
    static_argnames=("architecture", "epochs", "batch_size", "steps", "on_epoch"),
)
def train(
    architecture: Architecture,
    settings: Setting,
    x: Float[Array, "folds rows features"],
    log_prices: Float[Array, " rows"],
    in_training: Bool[Array, "folds rows"],
    *,
    epochs: int,
    batch_size: int,
    steps: int,
    keys: Key[Array, "folds seeds"],
    on_epoch: Callable[[Int[Array, ""]], None] | None = None,
) -> tuple[Model, Float[Array, "settings folds seeds rows"]]:
    """Train a model for each setting, fold and seed, and predict every row.

    Settings share initial parameters, batches and dropout masks, so that they differ in
    nothing else; log prices are standardised within each fold.

    Args:
      architecture: of every model.
      settings: each field of shape (settings, folds).
      x: every row as each fold encodes it, rows to predict included.
      log_prices: of every row; where no fold trains, any finite number will do.
      in_training: the rows that each fold trains on.
      epochs: passes over them.
      batch_size: rows in a batch.
      steps: see `folds.steps_per_epoch`.
      keys: of each member: split in two, for `init` and for `folds.fit`.
      on_epoch: see `folds.fit`.

    Returns:
      The models, leading with (settings, folds, seeds), and their log prices.

    Raises:
      ValueError: as `folds.fit` and `population.seed_keys` do.
    """
    check_member_keys(keys)

    def member(
        setting: Setting, x: Array, rows: Array, key: PRNGKeyArray
    ) -> tuple[Model, Array]:
        init_key, train_key = jax.random.split(key)
        mean = jnp.mean(log_prices, where=rows)
        deviation = jnp.std(log_prices, where=rows)
        # Each fold runs through the whole schedule, however many rows it has.
        num_steps = epochs * -(-rows.sum() // batch_size)
        params, _ = folds.fit(
            init(architecture, x.shape[-1], key=init_key),
            (x, (log_prices - mean) / deviation),
            rows,
            metrics_fn=partial(_metrics, setting.dropout),
            optimizer=_adamw(setting, num_steps),
            epochs=epochs,
            batch_size=batch_size,
            steps=steps,
            watch=False,
            key=train_key,
            on_epoch=on_epoch,
        )
        model = Model(params, mean, deviation)
        return model, log_price(model, x)

    by_seed = jax.vmap(member, (None, None, None, 0))
    by_fold = jax.vmap(by_seed, (0, 0, 0, 0))
    return jax.vmap(by_fold, (0, None, None, None))(settings, x, in_training, keys)


def _metrics(
    rate: float | Array,
    params: dict[str, PyTree],
    x: Array,
    labels: Array,
    *,
    key: PRNGKeyArray | None,
) -> Metrics:
    """Return the Huber loss, because a few sales are far off any trend."""
    predictions = predict(params, x, rate, key=key)
    return {"loss": optax.huber_loss(predictions, labels, delta=HUBER)}


def _adamw(setting: Setting, num_steps: Int[Array, ""]) -> optax.GradientTransformation:
    def learning_rate(step: ArrayLike) -> Float[Array, ""]:
        """Rise for a twentieth of the steps, then fall along a cosine to zero."""
        done = (step + 1) / num_steps
        bent = jnp.minimum(20 * done, 1.0) * (1 + jnp.cos(jnp.pi * done)) / 2
        return setting.learning_rate * bent

    return optax.adamw(
        learning_rate, b2=0.95, weight_decay=setting.weight_decay, mask=_is_weight
    )


def _is_weight(params: dict[str, PyTree]) -> dict[str, PyTree]:
    """Mark the kernels, and no bias, frequency or phase."""
    layers = [{"kernel": True, "bias": False} for _ in params["layers"]]
    return {"frequency": False, "phase": False, "layers": layers}
