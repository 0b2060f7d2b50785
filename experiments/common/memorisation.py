"""Dropout MLPs on few images, some of them with wrong labels: do they memorise?

The lesson of `experiments.dropout` and the claims about dropout train these.
"""

from contextlib import nullcontext
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree, UInt8

from ch4jax import training
from ch4jax.data.fashion_mnist import CLASSES, to_float
from ch4jax.dropout import init_mlp, mlp
from ch4jax.training import Data, Metrics, TrainState
from ch4jax.weight_decay import kernel_mask
from experiments.common import console
from experiments.common.networks import classifier

STD = 0.05  # of the weights before training


class Recipe(NamedTuple):
    """What all members share; hashable, so that jit can take it as static.

    Attributes:
      rows: images to learn from.
      epochs: passes over them, a multiple of `every`.
      hidden: width of each hidden layer.
      every: epochs from one evaluation to the next.
      batch_size: rows in a batch.
      optimizer: `adam`, or plain `sgd` as in the book.
      learning_rate: of the optimizer.
    """

    rows: int = 3000
    epochs: int = 40
    hidden: tuple[int, ...] = (256, 256)
    every: int = 2
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3


class Members(NamedTuple):
    """What members differ in.

    Members with equal keys learn the same images, with the same wrong labels, from the
    same parameters.

    Attributes:
      rates: probability of dropping a unit, for each hidden layer.
      label_noise: share of the labels that are drawn again, from all classes.
      decay: weight decay of the kernels; decoupled, with Adam.
      keys: what is random.
    """

    rates: Float[Array, "members layers"]
    label_noise: Float[Array, " members"]
    decay: Float[Array, " members"]
    keys: Key[Array, " members"]


class Curves(NamedTuple):
    """Each metric after some epochs, nothing dropped, and the last parameters.

    Attributes:
      epochs: after which the members were evaluated.
      train: loss in nats and accuracy on the images learnt from, wrong labels included.
      test: the same on the test images.
      params: of each member, `{"layers": ..., "rates": ...}`.
    """

    epochs: Int[np.ndarray, " points"]
    train: dict[str, Float[np.ndarray, "points members"]]
    test: dict[str, Float[np.ndarray, "points members"]]
    params: PyTree


def members(
    rates: tuple[tuple[float, ...], ...],
    keys: Key[Array, " runs"],
    *,
    label_noise: float = 0.0,
    decay: float = 0.0,
) -> Members:
    """Return a member for each of some rates and each key, rates first."""
    number = len(rates) * len(keys)
    return Members(
        jnp.repeat(jnp.array(rates), len(keys), axis=0),
        jnp.full(number, label_noise),
        jnp.full(number, decay),
        keys[jnp.tile(jnp.arange(len(keys)), len(rates))],
    )


def draw(
    data: Data, num_rows: int, label_noise: float | Array, *, key: PRNGKeyArray
) -> Data:
    """Draw rows of `data` without repetition, and a share of their labels again."""
    row_key, which_key, label_key = jax.random.split(key, 3)
    rows = jax.random.permutation(row_key, len(data[1]))[:num_rows]
    images, labels = data[0][rows], data[1][rows].astype(jnp.int32)
    drawn = jax.random.randint(label_key, labels.shape, 0, len(CLASSES))
    again = jax.random.uniform(which_key, labels.shape) < label_noise
    return images, jnp.where(again, drawn, labels)


@classifier
def metrics(
    params: PyTree, images: UInt8[Array, "batch *image"], *, key: PRNGKeyArray | None
) -> Array:
    """Return the logits of each image."""
    rates = list(jax.lax.stop_gradient(params["rates"]))
    return mlp(params["layers"], to_float(images), rates, key=key)


def train(
    recipe: Recipe, members: Members, data: Data, test_data: Data, *, label: str = ""
) -> Curves:
    """Train all members in one program, and evaluate them every few epochs.

    Args:
      recipe: how to train.
      members: what they differ in.
      data: images that the members draw theirs from, and their labels.
      test_data: what they are evaluated on.
      label: of the progress; none is shown without it.
    """
    train_data, states, keys = _start(members, data, recipe=recipe)
    points = range(recipe.every, recipe.epochs + 1, recipe.every)
    rows = []
    shown = console.progress(label, recipe.epochs) if label else nullcontext()
    with shown as done:
        for _ in points:
            states, row = _advance(
                states, train_data, test_data, recipe=recipe, keys=keys
            )
            rows.append(jax.device_get(row))
            if done:
                test = {name: values.mean() for name, values in rows[-1][1].items()}
                words = (f"test {name} {value:.3f}" for name, value in test.items())
                done(", ".join(words), recipe.every)
    train, test = jax.tree.map(lambda *values: np.stack(values), *rows)
    return Curves(np.array(points), train, test, states.params)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return an optimizer whose decay is part of its state: members differ in it."""
    rate = recipe.learning_rate

    def decayed(weight_decay: float | Array) -> optax.GradientTransformation:
        if recipe.optimizer == "adam":
            return optax.adamw(rate, weight_decay=weight_decay, mask=kernel_mask)
        decay = optax.add_decayed_weights(weight_decay, mask=kernel_mask)
        return optax.chain(decay, optax.sgd(rate))

    return optax.inject_hyperparams(decayed)(weight_decay=0.0)


@partial(jax.jit, static_argnames="recipe")
def _start(
    members: Members, data: Data, *, recipe: Recipe
) -> tuple[Data, TrainState, Key[Array, " members"]]:
    """Draw the images and the parameters of each member, and its key for training."""

    def start(member: Members) -> tuple[Data, TrainState, PRNGKeyArray]:
        data_key, init_key, train_key = jax.random.split(member.keys, 3)
        drawn = draw(data, recipe.rows, member.label_noise, key=data_key)
        sizes = (data[0][0].size, *recipe.hidden, len(CLASSES))
        layers = init_mlp(sizes, std=STD, key=init_key)
        params = {"layers": layers, "rates": member.rates}
        state = training.init_state(params, _optimizer(recipe))
        state = optax.tree.set(state, weight_decay=member.decay)
        return drawn, state, train_key

    return jax.vmap(start)(members)


@partial(jax.jit, static_argnames="recipe")
def _advance(
    states: TrainState,
    train_data: Data,
    test_data: Data,
    *,
    recipe: Recipe,
    keys: Key[Array, " members"],
) -> tuple[TrainState, tuple[Metrics, Metrics]]:
    """Train for `recipe.every` epochs, and evaluate on both sets."""
    optimizer = _optimizer(recipe)

    def member(
        state: TrainState, data: Data, key: PRNGKeyArray
    ) -> tuple[TrainState, tuple[Metrics, Metrics]]:
        def epoch(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return training.train_epoch(
                state,
                data,
                metrics_fn=metrics,
                optimizer=optimizer,
                batch_size=recipe.batch_size,
                key=jax.random.clone(key),  # `state.step` makes epochs differ
            )

        state, _ = jax.lax.scan(epoch, state, length=recipe.every)
        evaluate = partial(training.evaluate, state.params, metrics_fn=metrics)
        return state, (evaluate(data), evaluate(test_data))

    return jax.vmap(member)(states, train_data, keys)
