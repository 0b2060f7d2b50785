"""The work that `experiments.benchmark` times: what each row does, and JAX's rows."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ch4jax import house_prices, training
from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.house_prices import features, models
from ch4jax.training import Batch, Metrics, MetricsFn, TrainState, folds, population
from experiments.common import linear_problem, roofline, timing
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.roofline import BATCH_SIZE

HIDDEN = (256, 256)
RATES = (0.2, 0.5)
STD = 0.01
LEARNING_RATE = 0.5
POPULATIONS = (1, 4, 16, 64)
DROPOUT, SWEEP, HOUSES = "dropout MLP", "weight decay sweep", "house prices"
PERCEPTRONS = "best recipe for house prices"
SETTINGS, SEEDS, EPOCHS = 4, 2, 5  # of it
DISPATCH = "1,000 steps of a tiny model"
UNITS = {DROPOUT: "images", SWEEP: "runs", HOUSES: "models", DISPATCH: "steps"}
UNITS[PERCEPTRONS] = "models"
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

    @property
    def dtype(self) -> str:
        """What it multiplies in."""
        if "own precision" in self.name:
            return "the device's own"
        return "bfloat16" if "bfloat16" in self.name else "float32"

    @property
    def label(self) -> str:
        """Its system and its name."""
        return f"{self.system}: {self.name}"


class Houses(NamedTuple):
    """What the book's recipe trains on, and the features of the best one."""

    x: Float[np.ndarray, "rows columns"]
    prices: Float[np.ndarray, " rows"]
    in_training: Bool[np.ndarray, "folds rows"]
    features: Float[np.ndarray, "rows features"]


def read_houses() -> Houses:
    """Read the shipped tables, and divide them into five folds."""
    tables = house_prices.read("shipped")
    x = house_prices.encode(tables.train, tables.test).train.astype(np.float32)
    prices = tables.train["SalePrice"].to_numpy(np.float32)
    derived, logs = features.derive(tables.train), np.log(prices.astype(float))
    best = features.encode(features.fit(derived, logs), derived, logs)
    return Houses(x, prices, folds.k_fold(len(x), 5), best.astype(np.float32))


def compiled(
    system: str,
    name: str,
    amount: int,
    work: Callable[..., PyTree],
    *args: PyTree,
    **keys: PyTree,
) -> Work:
    """Return a row that calls a function, compiled here, on these arguments."""
    program, seconds = timing.compile(jax.jit(work), *args, **keys)
    memory = roofline.program_mb(program)
    return Work(system, name, lambda: program(*args, **keys), amount, seconds, memory)


def dropout_rows(data: FashionMNIST) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP: step by step, scanned, and populations."""
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    num_rows = len(images)
    network = flax_network(HIDDEN, RATES, STD)
    optimizer = optax.sgd(LEARNING_RATE)
    given = {"metrics_fn": metrics_fn(network), "optimizer": optimizer}
    start = training.init_state(network.init(jax.random.key(0)), optimizer)
    step = jax.jit(partial(training.train_step, **given))

    def step_by_step() -> TrainState:
        state = start
        order, real = training.batch_rows(num_rows, BATCH_SIZE, key=jax.random.key(1))
        for rows, mask in zip(np.asarray(order), np.asarray(real), strict=True):
            batch = Batch(images[rows], labels[rows], mask)
            state, _ = step(state, batch, key=jax.random.key(2))
        return state

    yield Work(DROPOUT, "JAX, step by step", step_by_step, num_rows, has_floor=True)

    def low(params: PyTree, x: Array, y: Array, *, key: PRNGKeyArray | None) -> Metrics:
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        logits = network.logits(params, x.astype(jnp.bfloat16) / 255, key=key)
        return training.classification_metrics(logits.astype(jnp.float32), y)

    given |= {"batch_size": BATCH_SIZE}
    whole = images, labels

    def scanned(words: str = "", **changed: MetricsFn) -> Work:
        epoch = partial(training.train_epoch, **(given | changed))
        name, key = f"JAX, scanned epoch{words}", jax.random.key(1)
        return compiled(DROPOUT, name, num_rows, epoch, start, whole, key=key)

    yield scanned()._replace(has_floor=True)
    plain = metrics_fn(flax_network(HIDDEN, (0.0,) * len(RATES), STD))
    yield scanned(", no dropout", metrics_fn=plain)._replace(has_floor=True)
    yield scanned(", bfloat16", metrics_fn=low)
    if jax.default_backend() != "cpu":  # on which float32 is the only mode
        with jax.default_matmul_precision("default"):
            yield scanned(", the device's own precision")
    # A tenth of the rows, so that 64 members do not take a minute.
    few = (images[: num_rows // 10], labels[: num_rows // 10])
    for members in POPULATIONS:
        init_keys, keys = jax.random.split(jax.random.key(0), (2, members))
        states = population.init_states(jax.vmap(network.init)(init_keys), optimizer)
        group = population.group_size(states.params, jax.default_backend())
        epoch = partial(population.train_epoch, **given, group=group)
        name, amount = f"JAX, population of {members}", members * len(few[0])
        yield compiled(DROPOUT, name, amount, epoch, states, few, keys=keys)


def sweep_rows() -> Iterator[Work]:
    """Yield the grid of `experiments.weight_decay`, lambdas times seeds."""
    problems = linear_problem.grid_problems()
    lambdas = jnp.asarray(linear_problem.grid_lambdas())
    runs = lambdas.size * problems.key.size
    for method, optimizer in (("scratch", "SGD"), ("L2 in Adam", "Adam")):
        name = f"JAX, {runs:,} at once, {optimizer}"
        program = linear_problem.grid_program(method)
        yield compiled(SWEEP, name, runs, program, problems, lambdas)


def house_rows(houses: Houses) -> Iterator[Work]:
    """Yield the book's recipe: five folds, and 8 settings x 5 folds x 8 seeds."""
    steps, k = folds.steps_per_epoch(houses.in_training, 64), len(houses.in_training)
    sizes = {"epochs": 100, "batch_size": 64, "steps": steps}
    train = partial(house_prices.train_linear, **sizes)
    arrays = [jnp.asarray(array) for array in houses[:3]]
    for settings, seeds in ((1, 1), (8, 8)):
        decays = jnp.linspace(0.0, 1.0, settings)
        setting = house_prices.Setting(jnp.full(settings, 5.0), decays)
        keys = jax.random.split(jax.random.key(0), (k, seeds))
        models = settings * k * seeds
        name = f"JAX, {models} at once"
        yield compiled(HOUSES, name, models, train, setting, *arrays, keys=keys)


def perceptron_rows(houses: Houses) -> Iterator[Work]:
    """Yield the perceptrons of the best recipe: settings x folds x seeds at once."""
    k = len(houses.in_training)
    # Learning rate, decay and dropout of each setting, the same in every fold.
    settings = np.linspace((0.01, 0.5, 0.2), (0.01, 1.5, 0.3), SETTINGS)
    each = np.broadcast_to(settings.T[..., None], (3, SETTINGS, k))
    setting = models.Setting(*jnp.asarray(each, float))
    x = jnp.broadcast_to(houses.features, (k, *houses.features.shape))
    arrays = setting, x, jnp.log(houses.prices), jnp.asarray(houses.in_training)
    steps = folds.steps_per_epoch(houses.in_training, 128)
    sizes = {"epochs": EPOCHS, "batch_size": 128, "steps": steps}
    train = partial(models.train, models.Architecture(), **sizes)
    keys = jax.random.split(jax.random.key(0), (k, SEEDS))
    number = SETTINGS * keys.size
    name = f"JAX, {number} at once"
    yield compiled(PERCEPTRONS, name, number, train, *arrays, keys=keys)
