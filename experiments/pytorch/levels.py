"""Levels of agreement with PyTorch where both sides are given the same.

(1) The same parameters and rows: outputs, loss, gradients. (2) One step of each
optimiser. (3) A whole run with the same parameters, batches and masks. The fourth,
runs that share nothing, is that of `experiments.pytorch.outcomes`.
"""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from jax import numpy as jnp

from ch4jax import training
from experiments.pytorch import twins
from experiments.pytorch.systems import (
    System,
    as_tree,
    module_with,
    on_device,
    start,
    torch_labels,
)

EXACT = 1e-12  # in float64
ROUNDED = 1e-4  # in float32
CHAOTIC = 1e-9  # in float64, of a run that amplifies rounding
SIGMAS = 5.0  # how far chance may take a count
TORCH_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Verdict(NamedTuple):
    """What was compared, how far apart it is, and how far apart it may be."""

    system: str
    level: int
    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; a NaN is not."""
        return self.difference <= self.tolerance


class Course(NamedTuple):
    """How far two runs are apart after each step, and what they ended in.

    Attributes:
      differences: of the parameters, after each step.
      params: ours after the last step.
      theirs: PyTorch's after the last step, as our tree.
    """

    differences: list[float]
    params: Any
    theirs: Any


def difference(ours: Any, theirs: Any) -> float:
    """Return ||a - b|| / ||b||, the largest over the arrays of two trees."""

    def one(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return math.inf
        apart, size = np.linalg.norm(a - b), np.linalg.norm(b)
        return float(apart / size if size > 0 else apart)

    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    # max() would pass over a NaN that does not stand first.
    return float(np.max([one(a, b) for a, b in pairs]))


def same_numbers(system: System, dtype: str, key: Any) -> list[Verdict]:
    """Level 1: outputs, loss and gradients in training mode, on the first batch."""
    with jax.enable_x64(dtype == "float64"):
        params = start(system, key)
        batch, step_key = next(steps(system, key))

        @jax.jit
        def outputs_loss_and_grads(params: Any, batch: Any, key: Any) -> Any:
            inputs, labels, _ = batch

            def mean_loss(params: Any) -> Any:
                outputs = system.predict(params, inputs, key=key)
                return system.row_losses(params, outputs, labels).mean(), outputs

            return jax.value_and_grad(mean_loss, has_aux=True)(params)

        (loss, outputs), grads = outputs_loss_and_grads(params, batch, step_key)
        module = module_with(system, params, TORCH_DTYPES[dtype])
        x, y = torch_rows(module, batch)
        give_masks(system, module, params, batch, jax.random.clone(step_key))
        theirs = module(x)
        torch_loss = system.loss(module, theirs, y)
        torch_loss.backward()
        torch_grads = as_tree(system, module, params, lambda p: p.grad)
    pairs = {
        "outputs": (np.ravel(outputs), theirs.detach().numpy().ravel()),
        "loss": (loss, torch_loss.detach()),
        "gradients": (grads, torch_grads),
    }
    return [
        Verdict(system.name, 1, f"{what}, {dtype}", difference(*pair), tolerance(dtype))
        for what, pair in pairs.items()
    ]


def honest_masks(system: System, key: Any) -> list[Verdict]:
    """Level 1: masks keep the right fraction, and no two of them go together.

    Differences are in standard deviations of what independent coins give.
    """
    if system.masks is None:
        return []
    params = start(system, key)
    drawn = []
    for step, (batch, run_key) in enumerate(itertools.islice(steps(system, key), 2)):
        step_key = jax.random.fold_in(run_key, step)
        masks = system.masks(params, batch.inputs, key=step_key)
        drawn.append([np.asarray(mask) for mask in masks])
    counts = [
        abs(mask.mean() - (1 - rate)) / math.sqrt(rate * (1 - rate) / mask.size)
        for masks in drawn
        for mask, rate in zip(masks, system.rates, strict=True)
    ]
    layers = [correlation(a, b) for a, b in itertools.pairwise(drawn[0])]
    later = [correlation(a, b) for a, b in zip(*drawn, strict=True)]
    return [
        Verdict(system.name, 1, f"{what} (deviations)", float(np.max(found)), SIGMAS)
        for what, found in (
            ("fraction kept by the masks", counts),
            ("masks of two layers, correlation", layers),
            ("masks of two steps, correlation", later),
        )
    ]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two masks, in standard deviations of chance."""
    width = min(a.shape[1], b.shape[1])
    a, b = a[:, :width].ravel(), b[:, :width].ravel()
    return abs(float(np.corrcoef(a, b)[0, 1])) * math.sqrt(a.size)


def one_step(system: System, dtype: str, key: Any) -> list[Verdict]:
    """Level 2: the parameters after one step of each optimiser."""
    verdicts = []
    for name in system.optimizers:
        course = whole_run(system, dtype, key, optimizer=name, num_steps=1)
        what = f"{name}, {dtype}"
        apart = course.differences[-1]
        verdicts.append(Verdict(system.name, 2, what, apart, tolerance(dtype)))
    return verdicts


def whole_run(
    system: System,
    dtype: str,
    key: Any,
    *,
    optimizer: str | None = None,
    num_steps: int | None = None,
) -> Course:
    """Take both sides through a run, step by step, and look at both after each.

    Args:
      system: what to train.
      dtype: float64 or float32.
      key: of the run.
      optimizer: by name; the first if not given.
      num_steps: of the run; all of its epochs if not given.
    """
    ours, make_theirs = system.optimizers[optimizer or next(iter(system.optimizers))]
    with jax.enable_x64(dtype == "float64"):
        params = start(system, key)
        module = module_with(system, params, TORCH_DTYPES[dtype])
        theirs = make_theirs(module)
        state = training.init_state(params, ours)
        step = jax.jit(
            partial(training.train_step, metrics_fn=system.metrics_fn, optimizer=ours)
        )
        differences = []
        for batch, step_key in itertools.islice(steps(system, key), num_steps):
            x, y = torch_rows(module, batch)
            give_masks(
                system,
                module,
                state.params,
                batch,
                jax.random.fold_in(step_key, state.step),
            )
            theirs.zero_grad()
            system.loss(module, module(x), y).backward()
            theirs.step()
            state, _ = step(state, batch, key=step_key)
            differences.append(
                difference(state.params, as_tree(system, module, params))
            )
        return Course(
            differences,
            jax.tree.map(np.asarray, state.params),
            as_tree(system, module, params),
        )


def every_row(system: System, key: Any) -> Verdict:
    """Level 3: rows of the first epoch that are not seen exactly once."""
    seen = np.zeros(len(system.data[0]), int)
    one_epoch = system._replace(epochs=1)
    for rows, real, _ in one_epoch.batches(one_epoch, key):
        np.add.at(seen, rows[real], 1)
    expected = np.zeros_like(seen)
    expected[system.rows] = 1
    wrong = float((seen != expected).sum())
    return Verdict(system.name, 3, "rows not seen once in an epoch", wrong, 0.0)


def whole_runs(system: System, key: Any, course: Course) -> list[Verdict]:
    """Level 3: whole runs in float64, step by step and by the compiled program.

    Training amplifies rounding, at the book's learning rate of 0.5 by up to 1e6 in 240
    steps. Where 1e-12 is passed, how much is measured: our compiled run three times
    more, its start moved by one rounding. PyTorch may then be ten times as far from us
    as we are from ourselves, and no further than `CHAOTIC`, from where on nothing would
    be shown.

    Args:
      system: what is trained.
      key: of the run.
      course: of the run with the first optimiser.
    """
    first, *others = system.optimizers
    optimizer, _ = system.optimizers[first]

    def ends(init: Any) -> Any:
        moved = system._replace(init=init)
        return system.run(moved, on_device(system), key, optimizer, system.epochs)

    apart = float(np.max(course.differences))
    with jax.enable_x64(True):
        ours = ends(system.init)
        compiled = difference(ours, course.theirs)
        bound, note = EXACT, ""
        if not max(apart, compiled) <= EXACT:
            inits = [partial(moved_start, system, seed=seed) for seed in range(3)]
            rounding = float(np.max([difference(ends(init), ours) for init in inits]))
            bound = min(max(EXACT, 10 * rounding), CHAOTIC)
            note = f" (one rounding: {rounding:.0e})"
    steps = f"{len(course.differences)} steps, float64"
    verdicts = [
        Verdict(system.name, 3, f"{first}, {steps}{note}", apart, bound),
        Verdict(system.name, 3, f"{first}, compiled, float64{note}", compiled, bound),
    ]
    for name in others:
        differences = whole_run(system, "float64", key, optimizer=name).differences
        apart = float(np.max(differences))
        verdicts.append(Verdict(system.name, 3, f"{name}, {steps}", apart, EXACT))
    return verdicts


def moved_start(system: System, key: Any, *, seed: int) -> Any:
    """Draw the parameters of `key`, each moved by a rounding up, or down, or not."""
    rng = np.random.default_rng(seed)

    def moved(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf, float)
        eps = float(jnp.finfo(leaf.dtype).eps)
        return leaf * (1 + eps * rng.choice([-1.0, 0.0, 1.0], leaf.shape))

    return jax.tree.map(moved, system.init(key))


def tolerance(dtype: str) -> float:
    """Return the bound on differences of levels 1 and 2."""
    return EXACT if dtype == "float64" else ROUNDED


def steps(system: System, key: Any) -> Iterator[tuple[training.Batch, Any]]:
    """Yield each batch of a run, as `training.train_step` takes it, with its key."""
    inputs, labels = on_device(system)
    for rows, real, step_key in system.batches(system, key):
        yield training.Batch(inputs[rows], labels[rows], jnp.asarray(real)), step_key


def torch_rows(module: torch.nn.Module, batch: training.Batch) -> tuple[Any, Any]:
    """Return the real rows of a batch as PyTorch's, in the precision of the module."""
    real = np.asarray(batch.real)
    inputs, labels = (np.asarray(array)[real] for array in batch[:2])
    dtype = next(module.parameters()).dtype
    return torch.tensor(inputs, dtype=dtype), torch_labels(labels, dtype)


def give_masks(
    system: System, module: Any, params: Any, batch: training.Batch, key: Any
) -> None:
    """Give PyTorch the masks that ours draws from `key` for the real rows."""
    if system.masks is None:
        return
    masks = system.masks(params, batch.inputs, key=key)
    real = np.asarray(batch.real)
    twins.give_masks(module, [torch.tensor(np.asarray(m)[real]) for m in masks])
