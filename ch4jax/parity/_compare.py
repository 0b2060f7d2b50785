"""The levels of a comparison: the same numbers, the same steps, the same runs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jaxtyping import ArrayLike, PyTree

from ch4jax.interop import import_torch
from ch4jax.parity import _causes, _layers
from ch4jax.parity._flax import Flax
from ch4jax.parity._masks import Mask, mask_checks, recorded
from ch4jax.parity._optimizers import Pair, optimizers, variants
from ch4jax.parity._parting import parting
from ch4jax.parity._report import (
    Check,
    Report,
    difference,
    differences,
    largest,
    path_of,
)
from ch4jax.parity._setting import ALLOWED, Losses, Setting, arrays, forward, prepared
from ch4jax.training.checks import check_counts

if TYPE_CHECKING:
    import torch

RUN = {"float64": 1e-10, "float32": 1e-3}  # or ten times the noise floor


def compare(
    ours: Flax,
    theirs: "torch.nn.Module",
    inputs: PyTree,
    labels: ArrayLike,
    *,
    losses: Losses | None = None,
    params: PyTree | None = None,
    original: Literal["torch", "flax"] = "torch",
    names: Mapping[str, str] | None = None,
    flattened: Mapping[str, Sequence[int]] | None = None,
    pairs: Mapping[str, Pair] | None = None,
    steps: int = 50,
    seed: int = 0,
) -> Report:
    """Compare two modules on three levels, in float64 and float32.

    (1) Outputs, loss, gradients and changed state, with the same parameters, rows and
    dropout masks. (2) Three steps of each optimizer. (3) A run with the same batches
    and masks. A level that fails is the last. Neither module is changed, nor any
    setting of JAX or PyTorch.

    Args:
      ours: a Linen or NNX module, or a function `apply(params, *inputs)`, which may
        take `train` and `key` as keywords. A module may take `train`, `training`,
        `is_training` or `deterministic`.
      theirs: a module of PyTorch.
      inputs: an array, or several; their first axis counts rows. Both modules are
        called with them as they are, so one that has channels last moves them.
      labels: an array with as many rows.
      losses: functions of outputs and labels, ours and theirs, which may take our
        `params` and PyTorch's `module` as keywords, for a penalty; without them,
        cross-entropy of integer labels, else the mean squared error.
      params: variables of Linen, or parameters of a function. A Linen module whose
        original is PyTorch's needs none.
      original: whose parameters are carried over to the other.
      names: see `ch4jax.interop.from_torch`.
      flattened: see `ch4jax.interop.from_torch`.
      pairs: optimizers by name, the first for the run; see `optimizers`.
      steps: of the run; the rows of each batch are drawn from `inputs` with repetition.
      seed: of batches, masks and perturbations.

    Raises:
      Mismatch: if parameters or masks cannot be carried over.
      TypeError: if either module, `inputs` or `params` is of another kind.
      ValueError: if `original` is neither side, or `steps` no whole number from 0.
      ImportError: if PyTorch is not installed.
    """
    torch = import_torch()
    if not isinstance(theirs, torch.nn.Module):
        raise TypeError(f"expected a module of PyTorch, got {theirs!r:.80}")
    if original not in ("torch", "flax"):
        raise ValueError(f"original must be 'torch' or 'flax', got {original!r}")
    if original == "flax" and isinstance(ours, linen.Module) and params is None:
        raise TypeError("original='flax' needs `params`, the variables of `ours`")
    several = isinstance(inputs, tuple | list)
    rows = tuple(map(np.asarray, inputs if several else (inputs,)))
    if any(x.dtype == object for x in rows):
        raise TypeError(f"expected arrays as inputs, got {type(inputs).__name__}")
    if steps:
        check_counts(steps=steps)
    setting = (ours, theirs, rows, np.asarray(labels), losses, params, original)
    options = {"names": names, "flattened": flattened}
    pairs = pairs or optimizers()
    checks: list[Check] = []
    gradients, places, first, notes = {}, [], "", []
    drift, floor, learns = {}, {}, True
    for dtype in ALLOWED:
        if not _passed(checks):
            break
        with prepared(dtype, *setting, options, seed) as s:
            found, apart, state = _same_numbers(s, dtype)
            checks += found
            if dtype == "float64":
                gradients = apart
                failed = {check.what for check in found if not check.passed}
                places, first, notes = parting(s, apart)
                if failed and not first and "outputs in evaluation" in failed:
                    _, first, notes = parting(s, apart, train=False)
                if not {"outputs in evaluation", "outputs in training"} & failed:
                    notes += _causes.of_state(state)
                learns = bool(gradients)
                if _passed(checks) and learns:
                    for name, pair in pairs.items():
                        check, why = _steps(s, name, pair)
                        checks.append(check)
                        notes += [words for words in why if words not in notes]
            if _passed(checks) and steps and learns:
                pair = next(iter(pairs.values()))
                found, drift[dtype], floor[dtype] = _run(s, dtype, pair, steps, seed)
                checks += found
    layers = tuple((str(place), place.difference) for place in places)
    if _passed(checks):  # then what is apart inside of the modules does not matter
        first, notes = "", []
    return Report(tuple(checks), first, tuple(notes), layers, gradients, drift, floor)


def assert_same(*args: PyTree, **kwargs: PyTree) -> None:
    """Raise an AssertionError with the report if `compare` finds a difference."""
    report = compare(*args, **kwargs)
    if not report.passed:
        raise AssertionError(f"\n{report}")


def _passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)


def _masks(
    s: Setting, state: PyTree, inputs: Sequence[Any], step: int
) -> tuple[list[Mask], PyTree]:
    """Return the masks that our side draws in a step, and its state after that."""
    with recorded() as masks:
        key = jax.random.fold_in(s.key, step)
        _, state = s.side.apply(s.params, state, arrays(inputs), train=True, key=key)
    return masks, state


def _theirs(
    s: Setting,
    module: "torch.nn.Module",
    inputs: Sequence[np.ndarray],
    labels: np.ndarray,
    masks: Sequence[Mask],
) -> tuple[list[Any], Any, Any]:
    """Run PyTorch forward and back, in training; return inputs, outputs and loss."""
    torch = import_torch()
    module.train().zero_grad()
    tensors, outputs, loss = forward(s, module, inputs, labels, masks)
    loss.backward()
    for parameter in module.parameters():
        if parameter.grad is None:  # the loss does not depend on it: zero, as in JAX
            parameter.grad = torch.zeros_like(parameter)
    return tensors, outputs, loss


def _same_numbers(
    s: Setting, dtype: str
) -> tuple[list[Check], dict[str, float], dict[str, float]]:
    """Level 1: the checks, and how far apart gradients and changed state are."""
    torch = import_torch()
    allowed = ALLOWED[dtype]
    module = copy.deepcopy(s.module).eval()
    with torch.no_grad():
        expected = module(*map(torch.tensor, s.inputs))
    inputs = arrays(s.inputs)
    outputs, _ = s.side.apply(s.params, s.state, inputs, train=False, key=s.key)
    found = {"outputs in evaluation": difference(outputs, expected)}
    masks, _ = _masks(s, s.state, s.inputs, 0)
    kept = [mask.kept for mask in masks]
    value = s.value(s.params, s.state, s.inputs, s.labels, kept)
    (loss, (outputs, state)), (grads, input_grads) = value
    tensors, expected, torch_loss = _theirs(s, module, s.inputs, s.labels, masks)
    expected = jax.tree.map(lambda x: x.detach(), expected)
    found["outputs in training"] = difference(outputs, expected)
    found["loss"] = difference(loss, torch_loss.detach())
    gradients = differences(grads, s.side.gradients(module, s.options))
    found["gradients of the parameters"] = largest(gradients)
    sizes = [float(p.grad.norm()) for p in module.parameters() if p.grad is not None]
    least = 1e-3 * max(sizes, default=0.0)  # behind BatchNorm the gradient cancels
    pairs = [
        difference(a, b.new_zeros(b.shape) if b.grad is None else b.grad, least)
        for a, b in zip(input_grads, tensors, strict=True)
        if b.requires_grad
    ]
    if pairs:
        found["gradient of the input"] = float(np.max(pairs))
    if changed := _floats(state, s.side.carried(module, s.options)[1]):
        found["state after a step"] = largest(changed)
    checks = [Check(1, what, dtype, apart, allowed) for what, apart in found.items()]
    return checks, gradients, changed


def _floats(ours: PyTree, theirs: PyTree) -> dict[str, float]:
    """Return the differences of what is no key and no counter."""

    def floats(tree: PyTree) -> dict[str, Any]:
        return {
            path_of(keys): x
            for keys, x in jax.tree.leaves_with_path(tree)
            if jnp.issubdtype(x.dtype, jnp.floating)
        }

    return differences(floats(ours), floats(theirs))


def _steps(s: Setting, name: str, pair: Pair) -> tuple[Check, list[str]]:
    """Level 2: three steps, so that moments, schedules and corrections show."""
    batches = [(s.inputs, s.labels)] * 3
    theirs, masks = _train_theirs(s, pair, batches)
    train = partial(_train_ours, s, batches=batches, masks=masks)
    ours = train(s.params, pair)
    apart, allowed = differences(ours[-1], theirs[-1]), ALLOWED["float64"]
    floor = dict.fromkeys(apart, 0.0)
    if not largest(apart) <= allowed:
        # Adam divides a gradient that is zero but for rounding by its own size.
        again = train(_moved(s.params, "float64"), pair)
        floor = differences(again[-1], ours[-1])
    check = _judged(2, f"{name}, 3 steps", "float64", apart, floor, allowed)
    notes = []
    if not check.passed:
        ready = variants(pair.theirs(copy.deepcopy(s.module).parameters()))
        for words, optimizer in ready.items():
            other = train(s.params, Pair(optimizer, pair.theirs))
            if largest(differences(other[-1], ours[-1])) <= allowed:
                if not words:
                    break
                notes.append(f"{name}: {words}")
        if _layers.two_biases(s.module, s.params):
            notes.append(
                "PyTorch's recurrent layers have two biases that learn twice as fast "
                "together as Flax's one"
            )
    return check, notes


def _judged(
    level: int,
    what: str,
    dtype: str,
    apart: Mapping[str, float],
    floor: Mapping[str, float],
    allowed: float,
) -> Check:
    """Return the check of the parameter that comes closest to what it is allowed.

    That is ten times what our own side moves by if its start moves by one rounding.
    """
    limits = {name: max(allowed, 10 * floor[name]) for name in apart}
    ratios = [apart[name] / limits[name] for name in apart]
    worst = [*apart][int(np.argmax(ratios))]  # NaN counts as the largest
    return Check(level, what, dtype, apart[worst], limits[worst])


def _moved(params: PyTree, dtype: str) -> PyTree:
    """Move every parameter by one rounding, up or down."""
    roundings = np.finfo(dtype).eps * np.random.default_rng(0).choice([-1, 1], 1000)
    return jax.tree.map(
        lambda x: x * (1 + np.resize(roundings, x.shape).astype(x.dtype)), params
    )


def _run(
    s: Setting, dtype: str, pair: Pair, steps: int, seed: int
) -> tuple[list[Check], dict[int, float], float]:
    """Level 3."""
    rng = np.random.default_rng(seed)
    rows = len(s.labels)
    batches = []
    for _ in range(steps):
        drawn = rng.integers(rows, size=rows)
        inputs = tuple(x[drawn] if len(x) == rows else x for x in s.inputs)
        batches.append((inputs, s.labels[drawn]))
    theirs, masks = _train_theirs(s, pair, batches)
    ours = _train_ours(s, s.params, pair, batches, masks)
    again = _train_ours(s, _moved(s.params, dtype), pair, batches, masks)
    floor = differences(again[-1], ours[-1])
    course = [differences(a, b) for a, b in zip(ours, theirs, strict=True)]
    drift = {step: largest(apart) for step, apart in enumerate(course, start=1)}
    what = f"a run of {steps} steps"
    checks = [_judged(3, what, dtype, course[-1], floor, RUN[dtype])]
    if dtype == "float64":
        checks += mask_checks(masks)
    return checks, drift, largest(floor)


def _train_theirs(
    s: Setting, pair: Pair, batches: Sequence[tuple[Any, Any]]
) -> tuple[list[PyTree], list[list[Mask]]]:
    """Train PyTorch's module; return its parameters and the masks of each step."""
    module = copy.deepcopy(s.module)
    step = pair.theirs(module.parameters())
    drawn, _ = _masks(s, s.state, s.inputs, 0)
    state, params, masks = s.state, [], []
    for i, (inputs, labels) in enumerate(batches):
        if drawn:
            drawn, state = _masks(s, state, inputs, i)
        masks.append(drawn)
        _theirs(s, module, inputs, labels, drawn)
        step()
        params.append(s.side.carried(module, s.options)[0])
    return params, masks


def _train_ours(
    s: Setting,
    params: PyTree,
    pair: Pair,
    batches: Sequence[tuple[Any, Any]],
    masks: Sequence[Sequence[Mask]],
) -> list[PyTree]:
    """Train ours with the same batches and masks; return each step's parameters."""
    update = _update(pair.ours)
    state, opt_state = s.state, pair.ours.init(params)
    course = []
    for (inputs, labels), drawn in zip(batches, masks, strict=True):
        kept = [mask.kept for mask in drawn]
        (_, (_, state)), (grads, _) = s.value(params, state, inputs, labels, kept)
        params, opt_state = update(params, grads, opt_state)
        course.append(params)
    return course


@cache
def _update(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Return a compiled step of an optimizer."""

    @jax.jit
    def update(params: PyTree, grads: PyTree, opt_state: PyTree) -> Any:
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return update
