"""What `experiments.benchmark` times on JAX's side, and how much work each row does."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from ch4jax import house_prices, training
from ch4jax.training import folds, population
from experiments.common import roofline as floors
from experiments.common import timing, weight_decay_runs
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.roofline import BATCH_SIZE
from experiments.weight_decay import Config

HIDDEN = (256, 256)
RATES = (0.2, 0.5)
STD = 0.01
LEARNING_RATE = 0.5
POPULATIONS = (1, 4, 16, 64)
DROPOUT, SWEEP, HOUSES = "dropout MLP", "weight decay sweep", "house prices"


class Work(NamedTuple):
    """One row of the benchmark.

    Attributes:
      system: what is trained.
      name: who trains it, and how.
      run: does the work once.
      amount: of work in one run, in units of `unit`.
      unit: images trained on, or models trained.
      compile: seconds of tracing and compiling, None if that is in the first run.
      memory: tells the megabytes that its arrays take, if they are known.
    """

    system: str
    name: str
    run: Callable[[], Any]
    amount: float
    unit: str
    compile: float | None = None
    memory: Callable[[], float | None] = lambda: None


def compiled(
    system: str, name: str, amount: float, unit: str, jitted: Any, *args: Any, **kw: Any
) -> Work:
    """Compile a jitted function; keyword arguments but `key`, `keys` are static."""
    program, seconds = timing.compile(jitted, *args, **kw)
    dynamic = {flag: value for flag, value in kw.items() if flag in ("key", "keys")}
    return Work(
        system,
        name,
        lambda: program(*args, **dynamic),
        amount,
        unit,
        seconds,
        lambda: floors.program_mb(program),
    )


def dropout_rows(data: Any) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP: step by step, scanned, and populations."""
    images, labels = data.train_images, data.train_labels
    num_rows = len(images)
    optimizer = optax.sgd(LEARNING_RATE)
    network = flax_network(HIDDEN, RATES, STD)
    plain = flax_network(HIDDEN, (0.0, 0.0), STD)
    metrics = metrics_fn(network)
    common = {"optimizer": optimizer, "batch_size": BATCH_SIZE}
    start = training.init_state(network.init(jax.random.key(0)), optimizer)
    step = jax.jit(training.train_step, static_argnames=("metrics_fn", "optimizer"))

    def step_by_step() -> Any:
        state = start
        order, real = training.batch_rows(num_rows, BATCH_SIZE, key=jax.random.key(1))
        for rows, here in zip(np.asarray(order), np.asarray(real), strict=True):
            state, _ = step(
                state,
                training.Batch(images[rows], labels[rows], here),
                metrics_fn=metrics,
                optimizer=optimizer,
                key=jax.random.key(2),
            )
        return state

    yield Work(DROPOUT, "JAX, step by step", step_by_step, num_rows, "images")

    def in_bfloat16(params: Any, x: Any, y: Any, *, key: Any) -> Any:
        low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        pixels = x.astype(jnp.bfloat16) / 255
        logits = network.logits(low, pixels, key=key).astype(jnp.float32)
        return training.classification_metrics(logits, y)

    for name, fn in (
        ("JAX, scanned epoch", metrics),
        ("JAX, scanned epoch, no dropout", metrics_fn(plain)),
        ("JAX, scanned epoch, bfloat16", in_bfloat16),
    ):
        yield compiled(
            DROPOUT,
            name,
            num_rows,
            "images",
            training.train_epoch,
            start,
            (images, labels),
            metrics_fn=fn,
            key=jax.random.key(1),
            **common,
        )
    # A tenth of the rows, so that 64 members do not take a minute.
    few = (images[: num_rows // 10], labels[: num_rows // 10])
    for members in POPULATIONS:
        init_keys, keys = jax.random.split(jax.random.key(0), (2, members))
        states = population.init_states(jax.vmap(network.init)(init_keys), optimizer)
        yield compiled(
            DROPOUT,
            f"JAX, population of {members}",
            members * len(few[0]),
            "images",
            population.train_epoch,
            states,
            few,
            metrics_fn=metrics,
            keys=keys,
            **common,
        )


def sweep_rows(lambdas: int = 64, seeds: int = 32) -> Iterator[Work]:
    """Yield the grid of `experiments.weight_decay`, lambdas times seeds."""
    config = Config(lambdas=lambdas, seeds=seeds)
    for method, name in (("scratch", "SGD"), ("L2 in Adam", "Adam")):
        yield compiled(
            SWEEP,
            f"JAX, {lambdas * seeds:,} at once, {name}",
            lambdas * seeds,
            "runs",
            weight_decay_runs.grid_program(config, method),
            weight_decay_runs.grid_problems(config),
            jnp.asarray(weight_decay_runs.grid_lambdas(config)),
        )


def house_rows(x: Any, prices: Any, in_training: Any) -> Iterator[Work]:
    """Yield the book's recipe: five folds, and 8 settings x 5 folds x 8 seeds."""
    steps = folds.steps_per_epoch(in_training, 64)
    for settings, seeds in ((1, 1), (8, 8)):
        models = settings * len(in_training) * seeds
        setting = house_prices.Setting(
            jnp.full(settings, 5.0), jnp.linspace(0.0, 1.0, settings)
        )
        yield compiled(
            HOUSES,
            f"JAX, {models} at once",
            models,
            "models",
            house_prices.train_linear,
            setting,
            jnp.asarray(x),
            jnp.asarray(prices),
            jnp.asarray(in_training),
            epochs=100,
            batch_size=64,
            steps=steps,
            keys=jax.random.split(jax.random.key(0), (len(in_training), seeds)),
        )
