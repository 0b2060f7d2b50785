"""A system on both sides: what the package has, and its twin in PyTorch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp

from ch4jax import initialization, interop, parameters, training
from experiments.pytorch import twins

Optimizers = tuple[optax.GradientTransformation, Callable[[Any], Any]]


def sgd(learning_rate: float) -> Optimizers:
    """Return plain SGD on either side."""
    return optax.sgd(learning_rate), lambda module: torch.optim.SGD(
        module.parameters(), lr=learning_rate
    )


class Outcome(NamedTuple):
    """How independent runs are made and judged.

    Attributes:
      metric: what a finished run is judged by.
      margin: difference of means from which the two sides count as different; it was
        chosen before any run was seen.
      runs: on each side.
      epochs: of each run.
      optimizers: as in `System.optimizers`.
      score: params -> metric.
      torch_score: module -> metric.
      schedule: for PyTorch's optimiser and number of steps, its scheduler.
    """

    metric: str
    margin: float
    runs: int
    epochs: int
    optimizers: Optimizers
    score: Callable[[Any], Any]
    torch_score: Callable[[Any], float]
    schedule: Callable[[Any, int], Any] | None = None


def keys_of(key: Any) -> tuple[Any, Any]:
    """Return the key of the start and the key of the run.

    A comparison draws the same numbers many times over, on purpose: hence the clone.
    """
    init_key, train_key = jax.random.split(jax.random.clone(key))
    return init_key, train_key


def on_device(system: "System") -> Any:
    """Return the data as arrays of the precision that is on."""
    inputs, labels = system.data
    real = np.issubdtype(labels.dtype, np.floating)
    return jnp.asarray(inputs, float), jnp.asarray(labels, float if real else int)


def start(system: "System", key: Any) -> Any:
    """Draw the parameters, in the precision that is on."""
    drawn = system.init(keys_of(key)[0])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), drawn)


_fit = jax.jit(
    training.fit, static_argnames=("metrics_fn", "optimizer", "epochs", "batch_size")
)


def fit(system: "System", data: Any, key: Any, optimizer: Any, epochs: int) -> Any:
    """Train from start to end in one scan."""
    return _fit(
        start(system, key),
        data,
        metrics_fn=system.metrics_fn,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=system.batch_size,
        key=keys_of(key)[1],
    )[0]


def epoch_batches(system: "System", key: Any) -> Iterator[Any]:
    """Deal the batches of `training.train_epoch`."""
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
      data: inputs and labels to train on, NumPy's, float64 where they are numbers.
      init: key -> parameters, as the package draws them.
      predict: (params, inputs, *, key) -> outputs; a key of None drops nothing.
      row_losses: (params, outputs, labels) -> a loss for each row, whose mean is
        minimised.
      module: makes PyTorch's network, with the start that a PyTorch user gives it; with
        masks, of the `dropout` layers that it is given.
      loss: (module, outputs, labels) -> what PyTorch minimises.
      optimizers: by name; ours, and a function of the module that makes PyTorch's. The
        first is that of a whole run.
      epochs: of a whole run.
      batch_size: rows in a batch.
      names: see `ch4jax.interop`.
      masks: (params, rows, *, key) -> the masks that `predict` draws from the key.
      rates: what fraction each mask drops.
      in_training: the rows to train on; all if None.
      batches: (system, key) -> row numbers, which of them are real, and the key of each
        step, as the compiled program deals them.
      run: (system, data, key, optimizer, epochs) -> parameters after a whole run, by
        the compiled program of the package.
      outcome: what independent runs are judged by, if there is anything to judge.
    """

    name: str
    data: tuple[np.ndarray, np.ndarray]
    init: Callable[..., Any]
    predict: Callable[..., Any]
    row_losses: Callable[..., Any]
    module: Callable[..., torch.nn.Module]
    loss: Callable[..., torch.Tensor]
    optimizers: dict[str, Optimizers]
    epochs: int
    batch_size: int
    names: Mapping[str, str] | None = None
    masks: Callable[..., list[Any]] | None = None
    rates: tuple[float, ...] = ()
    in_training: np.ndarray | None = None
    batches: Callable[..., Iterator[Any]] = epoch_batches
    run: Callable[..., Any] = fit
    outcome: Outcome | None = None

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows to train on."""
        everything = np.arange(len(self.data[0]))
        return everything if self.in_training is None else everything[self.in_training]

    def metrics_fn(self, params: Any, inputs: Any, labels: Any, *, key: Any) -> Any:
        """Be the metrics function of `ch4jax.training`."""
        outputs = self.predict(params, inputs, key=key)
        return {"loss": self.row_losses(params, outputs, labels)}


def module_with(system: System, params: Any, dtype: torch.dtype) -> torch.nn.Module:
    """Return PyTorch's network with our parameters in it."""
    with_masks = {} if system.masks is None else {"dropout": twins.GivenDropout}
    module = system.module(**with_masks).to(dtype)
    slots = named_parameters(module)
    ours = interop.to_torch(params, slots, names=system.names)
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(ours[name])
    return module


def named_parameters(module: torch.nn.Module) -> dict[str, Any]:
    """Return the parameters by name, a shared one under each of its names."""
    return dict(module.named_parameters(remove_duplicate=False))


def torch_data(system: System) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data as PyTorch's, in float32."""
    inputs, labels = system.data
    return torch.tensor(inputs, dtype=torch.float32), torch_labels(
        labels, torch.float32
    )


def torch_labels(labels: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return classes as integers, and numbers in the precision asked for."""
    real = np.issubdtype(labels.dtype, np.floating)
    return torch.tensor(labels, dtype=dtype if real else torch.int64)


def as_tree(
    system: System,
    module: torch.nn.Module,
    like: Any,
    of: Callable[[Any], torch.Tensor] = lambda parameter: parameter,
) -> Any:
    """Return the parameters, or what `of` makes of each, as a tree like ours."""
    found = {n: of(p).detach().clone() for n, p in named_parameters(module).items()}
    return interop.from_torch(found, like, names=system.names)


def torch_train(
    system: System,
    module: torch.nn.Module,
    optimizer: Any,
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    epochs: int,
    call: Any = None,
    schedule: Any = None,
) -> None:
    """Train PyTorch's network as a PyTorch user does, its tensors in memory.

    Args:
      system: whose rows, batch size and loss.
      module: is trained.
      optimizer: of its parameters.
      data: what `torch_data` returns, made once for many runs.
      epochs: passes over the rows.
      call: what to call in place of `module`: itself, compiled.
      schedule: of the learning rate, a step a batch.
    """
    inputs, labels = data
    rows = torch.tensor(system.rows)
    forward = module if call is None else call  # a compiled Linear has no truth value
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(system.batch_size):
            optimizer.zero_grad()
            outputs = forward(inputs[batch])
            system.loss(module, outputs, labels[batch]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()


def torch_start(like: Any, *, key: Any) -> Any:
    """Draw parameters as PyTorch's modules do: Linear's, and N(0, 1) for MyLinear."""
    rules: dict[str, Any] = {}
    for path, leaf in parameters.flatten(like).items():
        if path.endswith("kernel"):
            rules[path] = initialization.torch_kernel
            bias = initialization.torch_bias(leaf.shape[0])
            rules[path.removesuffix("kernel") + "bias"] = bias
    rules |= {"*": initialization.normal(1.0)} if len(rules) == 0 else {}
    return parameters.reinitialize(like, rules, key=key)
