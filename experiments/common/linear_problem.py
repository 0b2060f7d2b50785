"""Linear regression on too few rows (D2L 3.7), and a grid of runs in one program.

`experiments.weight_decay` compares the runs, `experiments.benchmark` times the grid.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax import weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.training import Data, population
from ch4jax.weight_decay import Params, Scalar

TRUE_WEIGHT, TRUE_BIAS, NOISE = 0.01, 0.05, 0.01
Measures = dict[str, Array]


class Hyperparameters(NamedTuple):
    """Sizes of a problem, and how to train on it; the defaults are the book's.

    Attributes:
      learning_rate: of SGD, of Adam and of AdamW.
      epochs: passes over the training rows.
      batch_size: rows in a batch.
      inputs: weights to learn.
      train_rows: rows to learn them from.
      test_rows: rows to judge them by.
    """

    learning_rate: float = 0.003
    epochs: int = 100
    batch_size: int = 5
    inputs: int = 200
    train_rows: int = 20
    test_rows: int = 100


BOOK = Hyperparameters()


class Problem(NamedTuple):
    """All that a run starts from.

    Attributes:
      train_data: features and labels.
      test_data: features and labels.
      params: before training.
      key: shuffles the training rows.
    """

    train_data: Data
    test_data: Data
    params: Params
    key: PRNGKeyArray


def draw_problem(
    hyperparameters: Hyperparameters = BOOK, *, key: PRNGKeyArray
) -> Problem:
    """Draw data and initial weights, each from a key of its own."""
    train_key, test_key, init_key, key = jax.random.split(key, 4)
    _, _, _, inputs, train_rows, test_rows = hyperparameters
    w = jnp.full((inputs, 1), TRUE_WEIGHT)
    return Problem(
        linear_regression(w, TRUE_BIAS, train_rows, noise=NOISE, key=train_key),
        linear_regression(w, TRUE_BIAS, test_rows, noise=NOISE, key=test_key),
        weight_decay.init_params(inputs, key=init_key),
        key,
    )


def zero_loss(hyperparameters: Hyperparameters = BOOK) -> float:
    """Return the expected loss of weights of zero with the true bias."""
    return (hyperparameters.inputs * TRUE_WEIGHT**2 + NOISE**2) / 2


def train(
    problem: Problem,
    method: str,
    lambd: Scalar,
    hyperparameters: Hyperparameters = BOOK,
) -> tuple[Params, Params]:
    """Return the parameters after the last epoch, and after each epoch.

    Args:
      problem: what to start from.
      method: `scratch`; `concise` with the same numbers, or `mapped` to the same
        steps; `L2 in Adam`; or `AdamW`.
      lambd: coefficient of the penalty.
      hyperparameters: how to train.
    """
    rate, epochs, batch_size, *_ = hyperparameters
    if method == "scratch":
        return weight_decay.train(
            problem.params,
            problem.train_data,
            lambd,
            learning_rate=rate,
            epochs=epochs,
            batch_size=batch_size,
            key=problem.key,
        )
    optimizers = {
        "concise": weight_decay.l2_sgd(rate, lambd),
        "mapped": weight_decay.l2_sgd(*weight_decay.concise_settings(rate, lambd)),
        "L2 in Adam": weight_decay.l2_adam(rate, lambd),
        "AdamW": optax.adamw(rate, weight_decay=lambd, mask=weight_decay.kernel_mask),
    }
    last, path = weight_decay.descend(
        {"params": problem.params},
        problem.train_data,
        metrics_fn=weight_decay.mse,
        optimizer=optimizers[method],
        epochs=epochs,
        batch_size=batch_size,
        key=problem.key,
    )
    return last["params"], path["params"]


def measure(params: Params, problem: Problem) -> Measures:
    """Return both losses, halved and without the penalty, and the norm of w."""
    return {
        "train_loss": weight_decay.mean_loss(params, problem.train_data),
        "test_loss": weight_decay.mean_loss(params, problem.test_data),
        "norm": jnp.linalg.norm(params["kernel"]),
    }


def grid_lambdas(num_lambdas: int = 64) -> Float[np.ndarray, " lambdas"]:
    """Return coefficients from 0.001 to 100, evenly spaced on a logarithmic scale."""
    return np.logspace(-3, 2, num_lambdas, dtype=np.float32)


def grid_problems(
    seed: int = 0, num_seeds: int = 32, hyperparameters: Hyperparameters = BOOK
) -> Problem:
    """Draw a problem from each of the seeds `seed`, `seed + 1`, ...

    Returns:
      The problems, as arrays with a leading axis of seeds.
    """
    keys = population.seed_keys(seed, num_seeds)
    return jax.vmap(lambda key: draw_problem(hyperparameters, key=key))(keys)


def grid_program(
    method: str, hyperparameters: Hyperparameters = BOOK
) -> Callable[[Problem, Float[Array, " lambdas"]], Measures]:
    """Return a jitted function: problems and lambdas to measures (lambdas, seeds)."""

    def cell(problem: Problem, lambd: Scalar) -> Measures:
        last, _ = train(problem, method, lambd, hyperparameters)
        return measure(last, problem)

    return jax.jit(jax.vmap(jax.vmap(cell, in_axes=(0, None)), in_axes=(None, 0)))
