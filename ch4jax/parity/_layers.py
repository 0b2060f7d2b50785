"""Where two modules part: what goes into and comes out of their layers, compared."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import PyTree

from ch4jax.interop import import_torch
from ch4jax.interop._torch import one_memory
from ch4jax.parity._causes import Change, Operation
from ch4jax.parity._flax import Calls, Path
from ch4jax.parity._report import difference

if TYPE_CHECKING:
    import torch

Flattened = Mapping[str, Sequence[int]]
LOSS = ("the loss",)  # its place, beside those of layers
_CLOSE = 1e-9
# What a setting is called, in PyTorch and in Flax.
_SETTINGS = (
    ("epsilon", "eps", "epsilon"),
    ("number of heads", "num_heads", "num_heads"),
    ("number of groups", "num_groups", "num_groups"),
    ("strides", "stride", "strides"),
    ("dilation", "dilation", "kernel_dilation"),
    ("groups", "groups", "feature_group_count"),
)


class Place(NamedTuple):
    """A layer's input or output in the order of PyTorch's forward pass.

    Attributes:
      path: of PyTorch's module.
      when: "into" or "out of".
      difference: infinite if the sizes differ.
      at: its number among what was noted in PyTorch.
      ours: what Flax has there.
      theirs: what PyTorch has there.
    """

    path: Path
    when: str
    difference: float
    at: int
    ours: np.ndarray
    theirs: np.ndarray

    def __str__(self) -> str:
        return f"{self.when} {_name(self.path)}"


@contextmanager
def watched(
    module: "torch.nn.Module", changes: Mapping[int, Change]
) -> Iterator[tuple[Calls, list[Operation]]]:
    """Collect what goes into and comes out of each module of PyTorch, and what it runs.

    Args:
      module: of PyTorch.
      changes: what runs in place of the operations of these numbers.
    """
    torch = import_torch()
    calls: Calls = []
    operations: list[Operation] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, _, args=(), kwargs=None):
            number, kwargs = len(operations), kwargs or {}
            operations.append(Operation(len(calls), function, args, kwargs))
            return changes.get(number, function)(*args, **kwargs)

    def hooks(name: str, part: "torch.nn.Module") -> list[Any]:
        path = tuple(name.split(".")) if name else ()

        def note(when: str, value: PyTree) -> None:
            with torch._C.DisableTorchFunction():  # a copy: it may change in place
                calls.append((path, when, first_array(value), part))

        pre = part.register_forward_pre_hook(
            lambda _, args, kwargs: note("into", (args, kwargs)), with_kwargs=True
        )
        return [pre, part.register_forward_hook(lambda _, __, out: note("out of", out))]

    handles = [h for name, part in module.named_modules() for h in hooks(name, part)]
    try:
        with Watch():
            yield calls, operations
    finally:
        for handle in handles:
            handle.remove()


def pairs_of(names: Mapping[str, str], module: "torch.nn.Module") -> dict[Path, Path]:
    """Return the pairs of layers, and those of modules that hold the same layers."""
    modules = dict(module.named_modules())
    pairs: dict[Path, Path] = {}
    for name, path in names.items():
        while name not in modules:  # it is one of several layers in a recurrent module
            name = name.rpartition(".")[0]
        pairs[tuple(name.split("."))] = tuple(path.split("/"))
    found = dict(pairs)
    for theirs in {path[:i] for path in pairs for i in range(len(path))}:
        inside = {v for k, v in pairs.items() if k[: len(theirs)] == theirs}
        ours = commonprefix([*inside])  # noqa: RUF071 - tuples, not strings
        below = {v for v in pairs.values() if v[: len(ours)] == ours}
        if len(inside) > 1 and inside == below:
            found.setdefault(theirs, tuple(ours))
    return {(): (), LOSS: LOSS} | found


def places(
    ours: Calls, theirs: Calls, pairs: Mapping[Path, Path], flattened: Flattened
) -> list[Place]:
    """Return how far apart each pair of inputs and outputs is.

    Values of one size and other shapes are left out, unless the layout is known.
    """
    values = defaultdict(list)
    for path, when, value, _ in ours:
        values[path, when].append(first_array(value))
    turn: dict[tuple[Path, str], int] = defaultdict(int)
    found = []
    for at, (path, when, b, module) in enumerate(theirs):
        if path not in pairs:
            continue
        key = pairs[path], when
        turn[key] += 1
        if turn[key] > len(values[key]):
            continue
        a = values[key][turn[key] - 1]
        if a is None or b is None:
            continue
        one_array = getattr(module, "weight", None) is not None  # no recurrent layer
        if one_array and b.ndim == 2 and b.size < a.size:
            a = _chosen(a, b)
        apart, b = min(
            ((difference(a, x), x) for x in _layouts(b, flattened.get(".".join(path)))),
            key=lambda pair: pair[0],
        )
        if apart < math.inf or math.isnan(apart) or (one_array and a.size != b.size):
            found.append(Place(path, when, apart, at, a, b))
    return found


def values_of(
    function: Callable[..., PyTree], *args: PyTree
) -> dict[tuple[int, ...], np.ndarray]:
    """Return what a function takes, and what each of its operations returns.

    Arrays of one shape are stacked: each trial of a cause looks through all of them.
    """
    with jax.disable_jit():
        closed = jax.make_jaxpr(function)(*args)
    every = [v for equation in closed.jaxpr.eqns for v in equation.outvars]
    leaves = jax.tree.leaves(args)
    jaxpr = closed.jaxpr.replace(outvars=every)
    found = defaultdict(list)
    for x in [*leaves, *eval_jaxpr(jaxpr, closed.consts, *leaves)]:
        if isinstance(x.dtype, np.dtype) and x.dtype.kind != "c":  # no key
            found[x.shape].append(np.asarray(x, float))
    return {shape: np.stack(some) for shape, some in found.items()}


def narrowed(function: Callable[..., PyTree], *args: PyTree) -> list[str]:
    """Say whether a function makes less of numbers in float64."""

    def is_jaxpr(parameter: Any) -> bool:
        return isinstance(parameter, Jaxpr | ClosedJaxpr)

    def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
                if is_jaxpr(inner):
                    yield from equations(getattr(inner, "jaxpr", inner))

    def widths(some: Sequence[Any]) -> list[int]:
        kept = [x.aval.dtype for x in some if hasattr(x.aval, "dtype")]
        return [d.itemsize for d in kept if jnp.issubdtype(d, jnp.floating)]

    narrow = any(
        8 in widths(equation.invars) and min(widths(equation.outvars), default=8) < 8
        for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)
    )
    words = "Flax computes in float32 or less, as nnx.dot_product_attention does"
    return [words] if narrow else []


def nearest(
    values: Mapping[tuple[int, ...], np.ndarray], b: np.ndarray | None
) -> np.ndarray | None:
    """Return the value that is nearest to one of PyTorch's, in any layout."""
    found = []
    for x in [] if b is None else _layouts(b, None):
        if x.shape in values:
            same = values[x.shape]
            apart = np.linalg.norm((same - x).reshape(len(same), -1), axis=1)
            k = int(np.nan_to_num(apart, nan=np.inf).argmin())
            found.append((apart[k], np.asarray(same[k])))
    return min(found, key=itemgetter(0), default=(0, None))[1]


def first_part(found: Sequence[Place], n: int, theirs: Calls, runs: str) -> str:
    """Return in words that the place of number `n` is the first that differs."""
    place = found[n]
    agreed = str(found[n - 1]) if n and found[n - 1].at else "the input"
    inside = {path for path, *_ in theirs if path[: len(place.path)] == place.path}
    apart = f"{place.difference:.1e} apart"
    if place.when == "out of" and place.path != LOSS and inside == {place.path}:
        return f"{_name(place.path)}, whose output is {apart}"
    there = f"; there PyTorch runs {runs}" if runs else ""
    return f"between {agreed} and {place}, which is {apart}{there}"


def first_gradient(
    found: Sequence[Place], pairs: Mapping[Path, Path], gradients: Mapping[str, float]
) -> str:
    """Return the last layer whose gradient differs: it is the first in going back."""
    for place in reversed(found):
        start = "/".join(pairs.get(place.path, ()))
        apart = [x for name, x in gradients.items() if name.startswith(f"{start}/")]
        if start and place.when == "into" and not max(apart, default=0.0) <= _CLOSE:
            return (
                f"the gradient of {_name(place.path)}, {max(apart):.1e} apart after "
                "an equal forward pass"
            )
    return ""


def tied(module: "torch.nn.Module", names: Mapping[str, str]) -> list[str]:
    """Return which parameters are one in PyTorch and several in Flax."""
    notes = []
    for same in one_memory(dict(module.named_parameters(remove_duplicate=False))):
        layers = {name.rpartition(".")[0] for name in same}
        ours = {names[layer] for layer in layers & names.keys()}
        if len(ours) > 1:
            notes.append(
                f"{' and '.join(same)} are one parameter in PyTorch, and in Flax "
                f"{' and '.join(sorted(ours))} are not tied"
            )
    return notes


def two_biases(module: "torch.nn.Module", params: PyTree) -> bool:
    """Whether PyTorch has more numbers, and recurrent layers with two biases."""
    recurrent = any(hasattr(part, "bias_ih_l0") for part in module.modules())
    count = sum(parameter.numel() for parameter in module.parameters())
    return recurrent and count > sum(leaf.size for leaf in jax.tree.leaves(params))


def values_notes(place: Place, theirs: Calls) -> list[str]:
    """Return what Flax's value seems to be, where it is not PyTorch's."""
    a, b = place.ours, place.theirs
    if a.size != b.size:
        return [f"{place} is {a.shape} in Flax and {b.shape} in PyTorch"]
    notes = []
    if np.isnan(a).any() and not np.isnan(b).any():
        notes.append(f"{place}, Flax has NaN, as JAX takes for an index out of bounds")
    for path, when, value, _ in theirs:
        if value is None or path == LOSS or (path, when) == (place.path, place.when):
            continue
        same = (difference(a, x) <= _CLOSE for x in _layouts(value, None))
        if value.size > 1 and any(same):
            notes.append(f"{place}, Flax has what PyTorch has {when} {_name(path)}")
            break
    scale = float(np.vdot(b, a) / max(float(np.vdot(b, b)), 1e-300))
    if b.size and difference(a, scale * b) <= _CLOSE and scale:
        notes.append(f"{place}, Flax's value is {scale:.6g} times PyTorch's")
    elif a.size > 1 and difference(np.sort(a, None), np.sort(b, None)) <= _CLOSE:
        notes.append(f"{place}, Flax has PyTorch's numbers in another order")
    return notes


def order_notes(
    ours: Calls, theirs: Calls, pairs: Mapping[Path, Path], equal: set[Path]
) -> list[str]:
    """Return the first two layers that the two sides run in another order.

    Layers whose outputs are equal may run in any order, unless `names` may have
    exchanged them: then their weights are of one shape.
    """
    leaves = {pairs[path]: path for path, *_ in theirs if path in pairs}
    inner = {path for path in leaves if path and path != LOSS}
    inner -= {path[:i] for path in inner for i in range(len(path))}
    shapes = {
        path: getattr(getattr(module, "weight", None), "shape", None)
        for path, _, _, module in theirs
    }
    used = [path for path, when, *_ in ours if when == "into" and path in inner]
    wanted = [
        pairs[p] for p, when, *_ in theirs if when == "into" and pairs.get(p) in inner
    ]
    once = ([path for path, _ in groupby(run)] for run in (used, wanted))
    for a, b in zip(*once, strict=False):  # a scan runs its cell several times
        if a != b:
            both = leaves[a], leaves[b]
            alike = len({shapes[path] for path in both}) == 1
            words = "Flax runs {} where PyTorch runs {}".format(*map(_name, both))
            exchanged = ", or `names` exchanges the two" if alike else ""
            return [] if equal >= {*both} and not alike else [words + exchanged]
    return []


def settings(
    ours: Calls, theirs: Calls, pairs: Mapping[Path, Path], equal: set[Path]
) -> list[str]:
    """Return in which settings paired layers differ; the output of some is equal."""
    mine = {path: module for path, _, _, module in ours}
    notes = []
    for path, module in {path: module for path, _, _, module in theirs}.items():
        other = mine.get(pairs.get(path, ("?",)))
        if other is None:
            continue
        name = _name(path)
        for words, attribute, flax in _SETTINGS:
            a, b = getattr(module, attribute, None), getattr(other, flax, None)
            if a is None or not hasattr(other, flax):
                continue
            a, b = _plain(a), _plain(1 if b is None else b)
            if a != b:
                notes.append(f"{words} {b} of {name} for PyTorch's {a}")
        a, b = (getattr(side, "momentum", None) for side in (module, other))
        if a and isinstance(b, float) and abs(1 - b - a) > 1e-6:  # of BatchNorm
            notes.append(
                f"momentum {b:g} of {name} for {1 - a:g}, which PyTorch writes {a:g}"
            )
        a, b = (getattr(side, "padding", None) for side in (module, other))
        strides, size = (
            _plain(getattr(module, k, 1)) for k in ("stride", "kernel_size")
        )
        if b == "SAME" and strides != 1 and size != 1 and path not in equal:
            notes.append(
                f'padding "SAME" of {name} for PyTorch\'s {a}: with strides Flax pads '
                "more at the end"
            )
    return notes


def without_gradient(module: "torch.nn.Module") -> list[str]:
    """Return what does not learn in PyTorch: the row of a pad, what is frozen."""
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
    notes = []
    if frozen:
        few = ", ".join(frozen[:3]) + (" ..." if frozen[3:] else "")
        notes.append(f"frozen in PyTorch (requires_grad=False): {few}")
    return notes + [
        f"padding_idx {part.padding_idx} of {name}: its row gets no gradient in PyTorch"
        for name, part in module.named_modules()
        if getattr(part, "padding_idx", None) is not None
    ]


def first_array(value: PyTree) -> np.ndarray | None:
    """Return a copy of the first array in a value whose entries are known."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, Tracer):
            return None
        if hasattr(leaf, "detach"):
            return np.array(leaf.detach().cpu().numpy())
        if isinstance(leaf, jax.Array | np.ndarray):
            return np.asarray(leaf)
    return None


def _chosen(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Flax's rows that PyTorch has, if it sends some alone to an expert."""
    rows = a.reshape(-1, a.shape[-1])
    if rows.shape[1:] != b.shape[1:]:
        return a
    nearest = [int(np.linalg.norm(rows - row, axis=1).argmin()) for row in b]
    return rows[nearest]


def _layouts(x: np.ndarray, size: Sequence[int] | None) -> list[np.ndarray]:
    """Return a value of PyTorch's in the layouts that Flax may have it in."""
    found = [x]
    if x.ndim > 2:
        found.append(np.moveaxis(x, 1, -1))
    if size and x.shape[-1] == math.prod(size):
        found.append(np.moveaxis(x.reshape(-1, *size), 1, -1).reshape(x.shape))
    return found


def _name(path: Path) -> str:
    return ".".join(path) or "the whole module"


def _plain(value: PyTree) -> PyTree:
    """Return a number, or a tuple of numbers, one number if all are equal."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values[0] if len(set(values)) == 1 else values
