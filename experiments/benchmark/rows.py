"""The work that `experiments.benchmark` times: what each row does, and JAX's rows."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt8

from ch4jax import house_prices, training
from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.training import folds, population
from experiments.common import linear_problem, roofline, timing
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.roofline import BATCH_SIZE

HIDDEN = (256, 256)
RATES = (0.2, 0.5)
STD = 0.01
LEARNING_RATE = 0.5
POPULATIONS = (1, 4, 16, 64)
DROPOUT, SWEEP, HOUSES = "dropout MLP", "weight decay sweep", "house prices"
UNITS = {DROPOUT: "images", SWEEP: "runs", HOUSES: "models"}  # trained on, or trained
FLOOR = "matrix products alone"


class Work(NamedTuple):
    """One row of the benchmark.

    Attributes:
      system: what is trained.
      name: which library trains it, and how.
      run: does the work once.
      amount: of work in one run, in the system's `UNITS`.
      compile: seconds of tracing and compiling, None if they are part of the first run.
      memory_mb: megabytes that its arrays take, None if unknown.
      has_floor: whether it multiplies the matrices of `FLOOR`, by JAX in float32, and
        so cannot be faster. A population may be: one product serves all its members.
    """

    system: str
    name: str
    run: Callable[[], PyTree]
    amount: int
    compile: float | None = None
    memory_mb: float | None = None
    has_floor: bool = False


class Houses(NamedTuple):
    """Features and prices of the book, and the rows that each fold trains on."""

    x: Float[np.ndarray, "rows features"]
    prices: Float[np.ndarray, " rows"]
    in_training: Bool[np.ndarray, "folds rows"]


def read_houses() -> Houses:
    """Read the shipped tables."""
    tables = house_prices.read("shipped")
    x = house_prices.encode(tables.train, tables.test).train.astype(np.float32)
    prices = tables.train["SalePrice"].to_numpy(np.float32)
    return Houses(x, prices, folds.k_fold(len(x), 5))


def compiled(
    system: str,
    name: str,
    amount: int,
    jitted: jax.stages.Wrapped,
    *args: Any,
    **kwargs: Any,
) -> Work:
    """Compile a jitted function, whose keywords but `key` and `keys` are static."""
    program, seconds = timing.compile(jitted, *args, **kwargs)
    keys = {word: value for word, value in kwargs.items() if word in ("key", "keys")}
    memory = roofline.program_mb(program)
    return Work(system, name, lambda: program(*args, **keys), amount, seconds, memory)


def dropout_rows(data: FashionMNIST) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP: step by step, scanned, and populations."""
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    num_rows = len(images)
    optimizer = optax.sgd(LEARNING_RATE)
    network = flax_network(HIDDEN, RATES, STD)
    plain = flax_network(HIDDEN, (0.0,) * len(RATES), STD)
    metrics = metrics_fn(network)
    start = training.init_state(network.init(jax.random.key(0)), optimizer)
    step = jax.jit(training.train_step, static_argnames=("metrics_fn", "optimizer"))

    def step_by_step() -> training.TrainState:
        state = start
        order, real = training.batch_rows(num_rows, BATCH_SIZE, key=jax.random.key(1))
        for rows, mask in zip(np.asarray(order), np.asarray(real), strict=True):
            state, _ = step(
                state,
                training.Batch(images[rows], labels[rows], mask),
                metrics_fn=metrics,
                optimizer=optimizer,
                key=jax.random.key(2),
            )
        return state

    name = "JAX, step by step"
    yield Work(DROPOUT, name, step_by_step, num_rows, has_floor=True)

    def in_bfloat16(
        params: PyTree,
        x: UInt8[Array, "batch *image"],
        y: Array,
        *,
        key: PRNGKeyArray | None,
    ) -> training.Metrics:
        low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        pixels = x.astype(jnp.bfloat16) / 255
        logits = network.logits(low, pixels, key=key).astype(jnp.float32)
        return training.classification_metrics(logits, y)

    for name, fn in (
        ("JAX, scanned epoch", metrics),
        ("JAX, scanned epoch, no dropout", metrics_fn(plain)),
        ("JAX, scanned epoch, bfloat16", in_bfloat16),
    ):
        work = compiled(
            DROPOUT,
            name,
            num_rows,
            training.train_epoch,
            start,
            (images, labels),
            metrics_fn=fn,
            optimizer=optimizer,
            batch_size=BATCH_SIZE,
            key=jax.random.key(1),
        )
        yield work._replace(has_floor=fn is not in_bfloat16)
    # A tenth of the rows, so that 64 members do not take a minute.
    few = (images[: num_rows // 10], labels[: num_rows // 10])
    for members in POPULATIONS:
        init_keys, keys = jax.random.split(jax.random.key(0), (2, members))
        yield compiled(
            DROPOUT,
            f"JAX, population of {members}",
            members * len(few[0]),
            population.train_epoch,
            population.init_states(jax.vmap(network.init)(init_keys), optimizer),
            few,
            metrics_fn=metrics,
            optimizer=optimizer,
            batch_size=BATCH_SIZE,
            keys=keys,
        )


def sweep_rows(lambdas: int = 64, seeds: int = 32) -> Iterator[Work]:
    """Yield the grid of `experiments.weight_decay`, lambdas times seeds."""
    for method, name in (("scratch", "SGD"), ("L2 in Adam", "Adam")):
        yield compiled(
            SWEEP,
            f"JAX, {lambdas * seeds:,} at once, {name}",
            lambdas * seeds,
            linear_problem.grid_program(method),
            linear_problem.grid_problems(num_seeds=seeds),
            jnp.asarray(linear_problem.grid_lambdas(lambdas)),
        )


def house_rows(houses: Houses) -> Iterator[Work]:
    """Yield the book's recipe: five folds, and 8 settings x 5 folds x 8 seeds."""
    k = len(houses.in_training)
    for settings, seeds in ((1, 1), (8, 8)):
        models = settings * k * seeds
        yield compiled(
            HOUSES,
            f"JAX, {models} at once",
            models,
            house_prices.train_linear,
            house_prices.Setting(
                jnp.full(settings, 5.0), jnp.linspace(0.0, 1.0, settings)
            ),
            *map(jnp.asarray, houses),
            epochs=100,
            batch_size=64,
            steps=folds.steps_per_epoch(houses.in_training, 64),
            keys=jax.random.split(jax.random.key(0), (k, seeds)),
        )
