"""The levels of a comparison: the same numbers, the same steps, the same runs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from ch4jax import interop
from ch4jax.errors import Mismatch
from ch4jax.interop import import_torch
from ch4jax.parity import _causes, _layers
from ch4jax.parity._causes import Change, Operation
from ch4jax.parity._flax import Calls, Flax, Side, carries, side_of
from ch4jax.parity._layers import Place
from ch4jax.parity._masks import (
    Mask,
    mask_checks,
    recorded,
    replayed_in_jax,
    replayed_in_torch,
)
from ch4jax.parity._optimizers import Pair, optimizers, variants
from ch4jax.parity._report import (
    Check,
    Report,
    difference,
    differences,
    largest,
    path_of,
)

if TYPE_CHECKING:
    import torch

Losses = tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]
ALLOWED = {"float64": 1e-12, "float32": 1e-4}
RUN = {"float64": 1e-10, "float32": 1e-3}  # or ten times the noise floor


class _Setting(NamedTuple):
    """What both sides are given, in one dtype."""

    side: Side
    module: "torch.nn.Module"  # PyTorch's, with the start's values
    params: PyTree
    state: PyTree
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray
    losses: Losses
    options: Mapping[str, Any]
    key: PRNGKeyArray
    value: Callable[..., Any]  # see `_value`


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
        take `train` and `key` as keywords.
      theirs: a module of PyTorch.
      inputs: an array, or a tuple of arrays; their first axis counts rows.
      labels: an array with as many rows.
      losses: functions of outputs and labels, ours and theirs; without them,
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
      ImportError: if PyTorch is not installed.
    """
    import_torch()
    rows = tuple(map(np.asarray, inputs if isinstance(inputs, tuple) else (inputs,)))
    setting = (ours, theirs, rows, np.asarray(labels), losses, params, original)
    options = {"names": names, "flattened": flattened}
    pairs = pairs or optimizers()
    checks: list[Check] = []
    gradients, places, first, notes = {}, [], "", []
    drift, floor = {}, {}
    for dtype in ALLOWED:
        if not _passed(checks):
            break
        with _prepared(dtype, *setting, options, seed) as prepared:
            found, apart, state = _same_numbers(prepared, dtype)
            checks += found
            if dtype == "float64":
                gradients = apart
                failed = {check.what for check in found if not check.passed}
                places, first, notes = _parting(prepared, apart)
                if failed and not first and "outputs in evaluation" in failed:
                    _, first, notes = _parting(prepared, apart, train=False)
                notes += [] if first else _causes.of_state(state)
                if _passed(checks):
                    for name, pair in pairs.items():
                        check, why = _steps(prepared, name, pair)
                        checks.append(check)
                        notes += why
            if _passed(checks) and steps:
                pair = next(iter(pairs.values()))
                found, drift[dtype], floor[dtype] = _run(
                    prepared, dtype, pair, steps, seed
                )
                checks += found
    layers = tuple((str(place), place.difference) for place in places)
    notes = () if _passed(checks) else tuple(notes)
    return Report(tuple(checks), first, notes, layers, gradients, drift, floor)


def assert_same(*args: PyTree, **kwargs: PyTree) -> None:
    """Raise an AssertionError with the report if `compare` finds a difference."""
    report = compare(*args, **kwargs)
    if not report.passed:
        raise AssertionError(f"\n{report}")


def _passed(checks: Sequence[Check]) -> bool:
    return all(check.passed for check in checks)


@contextmanager
def _prepared(
    dtype: str,
    ours: Flax,
    theirs: "torch.nn.Module",
    inputs: tuple[np.ndarray, ...],
    labels: np.ndarray,
    losses: Losses | None,
    params: PyTree | None,
    original: str,
    options: Mapping[str, Any],
    seed: int,
) -> Iterator[_Setting]:
    """Give both sides the same parameters, in one dtype."""
    torch = import_torch()
    with jax.enable_x64(dtype == "float64"), carries(dtype):
        rows, labels = tuple(_as(x, dtype) for x in inputs), _as(labels, dtype)
        side = side_of(ours, params, _arrays(rows))
        module = copy.deepcopy(theirs).to(getattr(torch, dtype))
        if original == "flax":
            values = interop.to_torch(side.cast(dtype), module, **options)
            module.load_state_dict(values)
        start, state = side.carried(module, options)
        integers = np.issubdtype(labels.dtype, np.integer)
        losses = losses or (_cross_entropy() if integers else _squares())
        key = jax.random.key(seed)
        yield _Setting(
            *(side, module, start, state, rows, labels, losses, options),
            *(key, _value(side, losses[0], key)),
        )


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    if np.issubdtype(x.dtype, np.floating):
        return x.astype(dtype)
    return x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else x


def _arrays(inputs: Sequence[np.ndarray]) -> list[Array]:
    return [jnp.asarray(x) for x in inputs]


def _cross_entropy() -> Losses:
    def ours(outputs: Array, labels: Array) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return losses.mean()

    return ours, import_torch().nn.functional.cross_entropy


def _squares() -> Losses:
    def ours(outputs: Array, labels: Array) -> Array:
        return jnp.square(outputs - labels).mean()

    return ours, import_torch().nn.functional.mse_loss


def _masks(
    s: _Setting, state: PyTree, inputs: Sequence[Any], step: int
) -> tuple[list[Mask], PyTree]:
    """Return the masks that our side draws in a step, and its state after that."""
    with recorded() as masks:
        key = jax.random.fold_in(s.key, step)
        _, state = s.side.apply(s.params, state, _arrays(inputs), train=True, key=key)
    return masks, state


def _value(side: Side, row_loss: Callable, key: PRNGKeyArray) -> Callable[..., Any]:
    """Return what gives loss, outputs, state, and gradients with recorded masks."""

    @jax.jit
    def value(params, state, inputs, labels, kept) -> Any:
        def loss(params: PyTree, inputs: Sequence[Any]) -> Any:
            with replayed_in_jax(kept):
                outputs, new = side.apply(params, state, inputs, train=True, key=key)
            return row_loss(outputs, labels), (outputs, new)

        grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
        return grad(params, inputs)

    return value


def _forward(
    s: _Setting,
    module: "torch.nn.Module",
    inputs: Sequence[np.ndarray],
    labels: np.ndarray,
    masks: Sequence[Mask],
) -> tuple[list[Any], Any, Any]:
    """Run PyTorch, in its mode; return inputs, outputs and loss."""
    torch = import_torch()
    tensors = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    with replayed_in_torch(masks) if module.training else nullcontext():
        outputs = module(*tensors)
    return tensors, outputs, s.losses[1](outputs, torch.tensor(labels))


def _theirs(
    s: _Setting,
    module: "torch.nn.Module",
    inputs: Sequence[np.ndarray],
    labels: np.ndarray,
    masks: Sequence[Mask],
) -> tuple[list[Any], Any, Any]:
    """Run PyTorch forward and back, in training; return inputs, outputs and loss."""
    module.train().zero_grad()
    tensors, outputs, loss = _forward(s, module, inputs, labels, masks)
    loss.backward()
    return tensors, outputs, loss


def _same_numbers(
    s: _Setting, dtype: str
) -> tuple[list[Check], dict[str, float], dict[str, float]]:
    """Level 1: the checks, and how far apart gradients and changed state are."""
    torch = import_torch()
    allowed = ALLOWED[dtype]
    module = copy.deepcopy(s.module).eval()
    with torch.no_grad():
        expected = module(*map(torch.tensor, s.inputs))
    inputs = _arrays(s.inputs)
    outputs, _ = s.side.apply(s.params, s.state, inputs, train=False, key=s.key)
    found = {"outputs in evaluation": _outputs(outputs, expected)}
    masks, _ = _masks(s, s.state, s.inputs, 0)
    kept = [mask.kept for mask in masks]
    value = s.value(s.params, s.state, s.inputs, s.labels, kept)
    (loss, (outputs, state)), (grads, input_grads) = value
    tensors, expected, torch_loss = _theirs(s, module, s.inputs, s.labels, masks)
    found["outputs in training"] = _outputs(outputs, expected)
    found["loss"] = difference(loss, torch_loss.detach())
    for parameter in module.parameters():
        if parameter.grad is None:  # the loss does not depend on it
            parameter.grad = torch.zeros_like(parameter)
    gradients = differences(grads, s.side.gradients(module, s.options))
    found["gradients of the parameters"] = largest(gradients)
    pairs = [
        difference(a, b.new_zeros(b.shape) if b.grad is None else b.grad)
        for a, b in zip(input_grads, tensors, strict=True)
        if b.requires_grad
    ]
    if pairs:
        found["gradient of the input"] = float(np.max(pairs))
    if changed := _floats(state, s.side.carried(module, s.options)[1]):
        found["state after a step"] = largest(changed)
    checks = [Check(1, what, dtype, apart, allowed) for what, apart in found.items()]
    return checks, gradients, changed


def _outputs(ours: PyTree, theirs: PyTree) -> float:
    """Return the largest difference of any output."""
    a, b = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    if len(a) != len(b):
        raise Mismatch(f"{len(a)} outputs for PyTorch's {len(b)}")
    return float(np.max([difference(x, y.detach()) for x, y in zip(a, b, strict=True)]))


def _floats(ours: PyTree, theirs: PyTree) -> dict[str, float]:
    """Return the differences of what is no key and no counter."""

    def floats(tree: PyTree) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        kept = {path_of(keys): x for keys, x in leaves}
        return {p: x for p, x in kept.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    return differences(floats(ours), floats(theirs))


def _parting(
    s: _Setting, gradients: Mapping[str, float], *, train: bool = True
) -> tuple[list[Place], str, list[str]]:
    """Find where the two modules part, and what may be the cause."""
    with recorded() as masks, s.side.watched() as ours:
        outputs, _ = s.side.apply(
            s.params, s.state, _arrays(s.inputs), train=train, key=s.key
        )
    if not ours:
        return [], "", []
    loss = s.losses[0](outputs, jnp.asarray(s.labels))
    ours.append((_layers.LOSS, "out of", loss, None))

    def theirs(changes: Mapping[int, Change]) -> tuple[Calls, list[Operation]]:
        module = copy.deepcopy(s.module).train(train)
        with _layers.watched(module, changes) as (calls, operations):
            _, _, loss = _forward(s, module, s.inputs, s.labels, masks)
        value = _layers.first_array(loss)
        return [*calls, (_layers.LOSS, "out of", value, None)], operations

    calls, operations = theirs({})
    names = interop.layer_pairs(s.module, s.side.variables, names=s.options["names"])
    pairs = _layers.pairs_of(names, s.module)
    flattened = s.options["flattened"] or {}
    places = _layers.places(ours, calls, pairs, flattened)
    allowed = ALLOWED["float64"]
    equal = {p.path for p in places if p.when == "out of" and p.difference <= allowed}
    notes = _layers.settings(ours, calls, pairs, equal) + _layers.tied(s.module, names)
    if masks and not train:
        notes.append(f"Flax drops in evaluation too, {len(masks)} times")
    wrong = [n for n, p in enumerate(places) if not p.difference <= allowed]
    if not wrong:
        first = _layers.first_gradient(places, pairs, gradients)
        if first and any(o.name == "detach" for o in operations):
            notes.append("PyTorch runs detach, which no gradient passes")
        return places, first, notes

    def agrees(changes: Mapping[int, Change]) -> bool:
        now = _layers.places(ours, theirs(changes)[0], pairs, flattened)[: n + 1]
        return len(now) == n + 1 and all(
            a.path == b.path and a.difference <= allowed
            for a, b in zip(now, places, strict=False)
        )

    n = wrong[0]
    start = places[n - 1].at + 1 if n else 0
    before = {i: o for i, o in enumerate(operations) if o.after <= places[n].at}
    near = {i: o for i, o in before.items() if start <= o.after}
    causes = _causes.tried(near, agrees)
    if not causes:
        causes = _causes.tried({i: before[i] for i in before.keys() - near}, agrees)
    causes += _layers.values_notes(places[n], calls)
    notes = notes + causes + _layers.order_notes(ours, calls, pairs)
    runs = _causes.shown([*near.values()])
    first = _layers.first_part(places, n, calls, runs)
    return places, first if train else f"in evaluation, {first}", notes


def _steps(s: _Setting, name: str, pair: Pair) -> tuple[Check, list[str]]:
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
    s: _Setting, dtype: str, pair: Pair, steps: int, seed: int
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
    s: _Setting, pair: Pair, batches: Sequence[tuple[Any, Any]]
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
    s: _Setting,
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
