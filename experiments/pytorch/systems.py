"""A system on both sides: what the package has, and its twin in PyTorch.

A family file, such as `experiments.pytorch.weight_decay`, says how the package draws
parameters and predicts (`Ours`), what a PyTorch user writes instead (`Theirs`), how
both are trained, and, where independent runs are compared, by what (`Outcome`).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree
from torch import Tensor, nn

from ch4jax import initialization, interop, parameters, training
from ch4jax.parity import Pair

Rows = tuple[np.ndarray, np.ndarray]  # inputs and labels
Batches = Iterator[tuple[np.ndarray, np.ndarray, PRNGKeyArray]]


class Ours(NamedTuple):
    """The package's side, as pure functions.

    Attributes:
      init: key -> parameters.
      predict: (parameters, inputs, key) -> outputs; a key of None drops nothing.
      row_losses: (parameters, outputs, labels) -> a loss for each row; training
        minimises their mean.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    predict: Callable[[PyTree, Array, PRNGKeyArray | None], Array]
    row_losses: Callable[[PyTree, Array, Array], Array]


class Theirs(NamedTuple):
    """PyTorch's side.

    Attributes:
      module: makes the network, with the start that a PyTorch user gives it. If names
        of layers differ from ours, it has the `names` of `ch4jax.interop`.
      loss: (module, outputs, labels) -> what is minimised.
    """

    module: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]


class Outcome(NamedTuple):
    """How independent runs are made and judged.

    Attributes:
      metric: by which a finished run is judged.
      test: rows that it is computed on.
      margin: difference of means from which the two sides count as different; it was
        chosen before any run was seen.
      runs: on each side.
      epochs: of each run.
      pair: the optimiser on both sides.
      score: (outputs, labels) -> metric.
      torch_score: the same in PyTorch.
    """

    metric: str
    test: Rows
    margin: float
    runs: int
    epochs: int
    pair: Pair
    score: Callable[[Array, Array], Array]
    torch_score: Callable[[Tensor, Tensor], Tensor]


def fit(
    system: "System", params: PyTree, data: training.Data, key: PRNGKeyArray
) -> PyTree:
    """Train from `params` to the end by the first optimiser; the caller compiles it."""
    (optimizer, _), *_ = system.optimizers.values()
    return training.fit(
        params,
        data,
        metrics_fn=system.metrics_fn,
        optimizer=optimizer,
        epochs=system.epochs,
        batch_size=system.batch_size,
        key=keys_of(key)[1],
    )[0]


def batches(system: "System", key: PRNGKeyArray) -> Batches:
    """Yield the batches of `fit`: row numbers, which of them are real, and the key."""
    shuffle_key, step_key = jax.random.split(keys_of(key)[1])
    num_rows = len(system.data[0])
    deal = jax.jit(
        lambda step: training.batch_rows(
            num_rows, system.batch_size, key=jax.random.fold_in(shuffle_key, step)
        )
    )
    step = 0
    for _ in range(system.epochs):
        for rows, real in zip(*map(np.asarray, deal(step)), strict=True):
            yield rows, real, jax.random.clone(step_key)
            step += 1


class System(NamedTuple):
    """One system on both sides, and how it is trained.

    Attributes:
      name: in tables and figures.
      data: rows to train on, NumPy's, float64 where they are numbers.
      ours: the package's side.
      theirs: PyTorch's side.
      optimizers: by name; the first is that of a whole run.
      epochs: of a whole run.
      batch_size: rows in a batch.
      fold: numbers of the rows to train on; all if None.
      run: trains by a program of the package, as `fit` does.
      batches: those that `run` deals.
      outcome: by what independent runs are judged; None if there are none.
    """

    name: str
    data: Rows
    ours: Ours
    theirs: Theirs
    optimizers: dict[str, Pair]
    epochs: int
    batch_size: int
    fold: np.ndarray | None = None
    run: Callable[["System", PyTree, training.Data, PRNGKeyArray], PyTree] = fit
    batches: Callable[["System", PRNGKeyArray], Batches] = batches
    outcome: Outcome | None = None

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows to train on."""
        return np.arange(len(self.data[0])) if self.fold is None else self.fold

    def start(self, key: PRNGKeyArray) -> PyTree:
        """Draw the parameters, in the current precision."""
        drawn = self.ours.init(keys_of(key)[0])
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), drawn)

    def metrics_fn(
        self, params: PyTree, inputs: Array, labels: Array, *, key: PRNGKeyArray | None
    ) -> training.Metrics:
        """Be the metrics function of `ch4jax.training`."""
        outputs = self.ours.predict(params, inputs, key)
        return {"loss": self.ours.row_losses(params, outputs, labels)}


def slope(system: System, key: PRNGKeyArray) -> PyTree:
    """Return loss and gradients on the first batch in training mode, NumPy's."""
    rows, real, step_key = next(system.batches(system, key))
    inputs, labels = as_arrays((system.data[0][rows[real]], system.data[1][rows[real]]))

    def loss(params: PyTree) -> Float[Array, ""]:
        return system.metrics_fn(params, inputs, labels, key=step_key)["loss"].mean()

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(system.start(key)))


def sgd(learning_rate: float) -> Pair:
    """Return plain SGD on either side."""
    return Pair(
        optax.sgd(learning_rate), lambda p: torch.optim.SGD(p, lr=learning_rate).step
    )


def keys_of(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Return the key of the start and the key of the run.

    A comparison draws the same numbers many times over, on purpose: hence the clone.
    """
    init_key, train_key = jax.random.split(jax.random.clone(key))
    return init_key, train_key


def as_arrays(rows: Rows) -> training.Data:
    """Return rows as JAX's: classes as integers, numbers in the current precision."""
    inputs, labels = rows
    dtype = float if labels.dtype.kind == "f" else int
    return jnp.asarray(inputs, float), jnp.asarray(labels, dtype)


def as_tensors(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return rows as PyTorch's: classes as integers, numbers in JAX's precision."""
    inputs, labels = rows
    dtype = precision()
    label_dtype = dtype if labels.dtype.kind == "f" else torch.int64
    return torch.tensor(inputs, dtype=dtype), torch.tensor(labels, dtype=label_dtype)


def precision() -> torch.dtype:
    """Return JAX's current precision."""
    return getattr(torch, str(jnp.result_type(float)))


def carried(params: PyTree, module: nn.Module) -> nn.Module:
    """Return a network of PyTorch with our parameters, in the current precision."""
    names = getattr(module.to(precision()), "names", None)
    module.load_state_dict(interop.to_torch(params, module, names=names))
    return module


def as_tree(module: nn.Module, like: PyTree, *, gradients: bool = False) -> PyTree:
    """Return PyTorch's parameters, or their gradients, as a tree like ours."""
    names = getattr(module, "names", None)
    return interop.from_torch(module, like, names=names, gradients=gradients)


def torch_start(like: PyTree, *, key: PRNGKeyArray) -> PyTree:
    """Draw parameters as PyTorch's modules do: Linear's, and N(0, 1) for MyLinear."""
    rules: dict[str, initialization.Initializer] = {}
    for path, leaf in parameters.flatten(like).items():
        if path.endswith("kernel"):
            bias = path.removesuffix("kernel") + "bias"
            rules[path] = initialization.torch_kernel
            rules[bias] = initialization.torch_bias(leaf.shape[0])
    rules = rules or {"*": initialization.normal(1.0)}
    return parameters.reinitialize(like, rules, key=key)
