"""Linear regression on too few rows (D2L 3.7), and a grid of runs in one program.

`experiments.weight_decay` compares the runs, `experiments.benchmark` times the grid.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax import training, weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.training import Data, population
from ch4jax.weight_decay import Params, Scalar
from experiments.common import cli

TRUE_BIAS, NOISE = 0.05, 0.01
Measures = dict[str, Array]


@dataclass(frozen=True)
class Hyperparameters:
    """Sizes of a problem, and how to train on it; the defaults are the book's."""

    learning_rate: cli.Positive = 0.003
    """Of SGD, of Adam and of AdamW."""
    epochs: cli.Count = 100
    """Passes over the training rows."""
    batch_size: cli.Count = 5
    """Rows in a batch."""
    inputs: cli.Count = 200
    """Weights to learn."""
    train_rows: cli.Count = 20
    """Rows to learn them from."""
    test_rows: cli.Count = 100
    """Rows to judge them by."""
    true_weight: float = 0.01
    """What each of the weights should become."""


BOOK = Hyperparameters()


class Problem(NamedTuple):
    """All that a run starts from.

    Attributes:
      train_data: features and labels.
      test_data: features and labels.
      params: before training from scratch; the bias is 0.
      bias: before training concisely, from N(0, 1) as in the book. It does not decay,
        and is learnt slowly.
      key: shuffles the training rows.
    """

    train_data: Data
    test_data: Data
    params: Params
    bias: Float[Array, " 1"]
    key: PRNGKeyArray


def draw_problem(config: Hyperparameters = BOOK, *, key: PRNGKeyArray) -> Problem:
    """Draw data and initial weights, each from a key of its own."""
    train_key, test_key, init_key, key = jax.random.split(key, 4)
    w = jnp.full((config.inputs, 1), config.true_weight)
    return Problem(
        linear_regression(w, TRUE_BIAS, config.train_rows, noise=NOISE, key=train_key),
        linear_regression(w, TRUE_BIAS, config.test_rows, noise=NOISE, key=test_key),
        weight_decay.init_params(config.inputs, key=init_key),
        jax.random.normal(jax.random.fold_in(init_key, 1), (1,)),
        key,
    )


def zero_loss(config: Hyperparameters = BOOK) -> float:
    """Return the expected loss of weights of zero with the true bias."""
    return (config.inputs * config.true_weight**2 + NOISE**2) / 2


def train(
    problem: Problem, method: str, lambd: Scalar, config: Hyperparameters = BOOK
) -> tuple[Params, Params]:
    """Return the parameters after the last epoch, and after each epoch.

    Args:
      problem: what to start from.
      method: `scratch`; `concise`, the book's, with the same numbers and a bias that
        starts from N(0, 1); `mapped` to the same start and steps as `scratch`;
        `L2 in Adam`; or `AdamW`.
      lambd: coefficient of the penalty.
      config: how to train.
    """
    rate, data, key = config.learning_rate, problem.train_data, problem.key
    if method == "scratch":
        return weight_decay.train(
            problem.params,
            data,
            lambd,
            learning_rate=rate,
            epochs=config.epochs,
            batch_size=config.batch_size,
            key=key,
        )
    optimizers = {
        "concise": weight_decay.l2_sgd(rate, lambd),
        "mapped": weight_decay.l2_sgd(*weight_decay.concise_settings(rate, lambd)),
        "L2 in Adam": weight_decay.l2_adam(rate, lambd),
        "AdamW": optax.adamw(rate, weight_decay=lambd, mask=weight_decay.kernel_mask),
    }
    start = {"bias": problem.bias} if method == "concise" else {}
    last, path = training.fit(
        {"params": problem.params | start},
        data,
        metrics_fn=weight_decay.mse,
        optimizer=optimizers[method],
        epochs=config.epochs,
        batch_size=config.batch_size,
        key=key,
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
    seed: int = 0, num_seeds: int = 32, config: Hyperparameters = BOOK
) -> Problem:
    """Return the problems of the seeds `seed`, `seed + 1`, ... as stacked arrays."""
    keys = population.seed_keys(seed, num_seeds)
    return jax.vmap(lambda key: draw_problem(config, key=key))(keys)


def grid_program(method: str, config: Hyperparameters = BOOK) -> jax.stages.Wrapped:
    """Return a jitted function: problems and lambdas to measures (lambdas, seeds)."""

    def cell(problem: Problem, lambd: Scalar) -> Measures:
        last, _ = train(problem, method, lambd, config)
        return measure(last, problem)

    return jax.jit(jax.vmap(jax.vmap(cell, in_axes=(0, None)), in_axes=(None, 0)))
