"""The runs that `experiments.weight_decay` compares: drawn, trained, measured."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from ch4jax import training, weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.training import population, sharding
from ch4jax.weight_decay import init_params, mean_loss
from experiments.common import timing

TRUE_WEIGHT, TRUE_BIAS, NOISE = 0.01, 0.05, 0.01
MEASURES = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "norm": "norm of w",
}


class Problem(NamedTuple):
    """All that a run starts from.

    Attributes:
      params: before training.
      key: shuffles the rows.
    """

    train_data: Any
    test_data: Any
    params: Any
    key: Any


def draw_problem(config: Any, *, key: Any) -> Problem:
    """Draw data and weights."""
    train_key, test_key, init_key, key = jax.random.split(key, 4)
    w = jnp.full((config.inputs, 1), TRUE_WEIGHT)
    return Problem(
        linear_regression(w, TRUE_BIAS, config.train_rows, noise=NOISE, key=train_key),
        linear_regression(w, TRUE_BIAS, config.test_rows, noise=NOISE, key=test_key),
        init_params(config.inputs, key=init_key),
        key,
    )


def train(config: Any, problem: Problem, method: str, lambd: Any) -> tuple[Any, Any]:
    """Return the parameters after the last epoch, and after each epoch.

    Args:
      config: of the experiment.
      problem: what to start from.
      method: `scratch`; `concise` with the same numbers, or `mapped` to the same
        steps; `L2 in Adam`; or `AdamW`.
      lambd: coefficient of the penalty, a number or an array of shape ().
    """
    rate, key = config.learning_rate, problem.key
    sizes = {"epochs": config.epochs, "batch_size": config.batch_size}
    if method == "scratch":
        start, data = problem.params, problem.train_data
        return weight_decay.train(
            start, data, lambd, learning_rate=rate, key=key, **sizes
        )
    optimizers = {
        "concise": weight_decay.l2_sgd(rate, lambd),
        "mapped": weight_decay.l2_sgd(*weight_decay.concise_settings(rate, lambd)),
        "L2 in Adam": weight_decay.l2_adam(rate, lambd),
        "AdamW": optax.adamw(rate, weight_decay=lambd, mask=weight_decay.kernel_mask),
    }
    fit = partial(
        training.fit,
        metrics_fn=weight_decay.mse,
        optimizer=optimizers[method],
        **sizes,
    )
    last, path = jax.jit(fit)({"params": problem.params}, problem.train_data, key=key)
    return last["params"], path["params"]


def measure(params: Any, problem: Problem) -> dict[str, Any]:
    """Return both losses, halved and without the penalty, and the norm of w."""
    return {
        "train_loss": mean_loss(params, problem.train_data),
        "test_loss": mean_loss(params, problem.test_data),
        "norm": jnp.linalg.norm(params["kernel"]),
    }


def grid_lambdas(config: Any) -> Any:
    """Return the coefficients of the grid, evenly spaced on a logarithmic scale."""
    return np.logspace(-3, 2, config.lambdas, dtype=np.float32)


def grid_problems(config: Any) -> Problem:
    """Return the problems of the grid; each array leads with an axis of seeds."""
    keys = population.seed_keys(config.seed, config.seeds)
    return jax.vmap(lambda key: draw_problem(config, key=key))(keys)


def grid_program(config: Any, method: str) -> Any:
    """Return the jitted function from problems and lambdas to measures of every run."""

    def cell(problem: Problem, lambd: Any) -> dict[str, Any]:
        last, _ = train(config, problem, method, lambd)
        return measure(last, problem)

    return jax.jit(jax.vmap(jax.vmap(cell, in_axes=(0, None)), in_axes=(None, 0)))


def train_grid(
    config: Any, problems: Problem, method: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train on every problem with every lambda, in one compiled program.

    Each device takes lambdas of its own; nothing passes between them.

    Returns:
      The measures of the finished runs, each of shape (lambdas, seeds); and the
      seconds that it took to `compile` and to `run`.
    """
    lambdas = jnp.asarray(grid_lambdas(config))
    mesh = sharding.make_mesh(config.devices)
    lambdas = sharding.place(lambdas, sharding.along(mesh, 0))
    problems = sharding.place(problems, sharding.whole(mesh))
    program, compile_seconds = timing.compile(
        grid_program(config, method), problems, lambdas
    )
    measures, run_seconds = timing.timed(lambda: program(problems, lambdas))
    return jax.device_get(measures), {"compile": compile_seconds, "run": run_seconds}


def zero_loss(config: Any) -> float:
    """Return the expected loss of weights that are zero beside the true bias."""
    return (config.inputs * TRUE_WEIGHT**2 + NOISE**2) / 2
