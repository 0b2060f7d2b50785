"""Where two modules part: what goes into and comes out of their layers, compared."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ch4jax.parity._flax import Calls, Path
from ch4jax.parity._report import difference

if TYPE_CHECKING:
    import torch

Flattened = Mapping[str, Sequence[int]]
# What a setting is called, in PyTorch and in Flax, and Flax's value of PyTorch's.
_SETTINGS = (
    ("epsilon", "eps", "epsilon"),
    ("number of heads", "num_heads", "num_heads"),
    ("number of groups", "num_groups", "num_groups"),
    ("strides", "stride", "strides"),
    ("dilation", "dilation", "kernel_dilation"),
    ("groups", "groups", "feature_group_count"),
)


class Place(NamedTuple):
    """A layer's input or output in the order of PyTorch's forward pass."""

    path: Path
    when: str
    difference: float

    def __str__(self) -> str:
        return _place(self.path, self.when)


@contextmanager
def watched(module: "torch.nn.Module") -> Iterator[Calls]:
    """Collect what goes into and comes out of each module of PyTorch, in order."""
    calls: Calls = []

    def hooks(name: str, part: "torch.nn.Module") -> list[Any]:
        path = tuple(name.split(".")) if name else ()

        def before(_: "torch.nn.Module", args: tuple, kwargs: dict) -> None:
            calls.append((path, "into", (args, kwargs), part))

        def after(_: "torch.nn.Module", args: tuple, outputs: PyTree) -> None:
            calls.append((path, "out of", outputs, part))

        pre = part.register_forward_pre_hook(before, with_kwargs=True)
        return [pre, part.register_forward_hook(after)]

    handles = [h for name, part in module.named_modules() for h in hooks(name, part)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def containers(pairs: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return the pairs, and those of modules that hold the same layers."""
    found = dict(pairs)
    for theirs in {path[:i] for path in pairs for i in range(len(path))}:
        inside = {v for k, v in pairs.items() if k[: len(theirs)] == theirs}
        ours = commonprefix([*inside])  # noqa: RUF071 - tuples, not strings
        below = {v for v in pairs.values() if v[: len(ours)] == ours}
        if len(inside) > 1 and inside == below:
            found.setdefault(theirs, tuple(ours))
    return {(): ()} | found


def places(
    ours: Calls, theirs: Calls, pairs: Mapping[Path, Path], flattened: Flattened
) -> list[Place]:
    """Return how far apart each pair of inputs and outputs is, where shapes fit."""
    values = defaultdict(list)
    for path, when, value, _ in ours:
        values[path, when].append(_first(value))
    turn: dict[tuple[Path, str], int] = defaultdict(int)
    found = []
    for path, when, value, _ in theirs:
        if path not in pairs:
            continue
        key = pairs[path], when
        turn[key] += 1
        if turn[key] > len(values[key]):
            continue
        a, b = values[key][turn[key] - 1], _first(value)
        apart = _apart(a, b, flattened.get(".".join(path)))
        if apart != math.inf:  # of one shape
            found.append(Place(path, when, apart))
    return found


def first_part(found: Sequence[Place], theirs: Calls, allowed: float) -> str:
    """Return where the modules part, in words; empty if they do not."""
    agreed = "the input"
    for place in found:
        if place.difference <= allowed:
            agreed = str(place)
            continue
        inside = [path for path, *_ in theirs if path[: len(place.path)] == place.path]
        if place.when == "out of" and set(inside) == {place.path}:
            name = ".".join(place.path) or "the whole module"
            return f"{name}, whose output is {place.difference:.1e} apart"
        between = _between(theirs, agreed, str(place))
        runs = f"; there PyTorch runs {', '.join(between)}" if between else ""
        return (
            f"between {agreed} and {place}, which is {place.difference:.1e} apart{runs}"
        )
    return ""


def settings(
    ours: Calls, theirs: Calls, pairs: Mapping[Path, Path], *, trained: bool
) -> list[str]:
    """Return in which settings paired layers differ."""
    mine = {path: module for path, _, _, module in ours}
    notes = []
    for path, module in {path: module for path, _, _, module in theirs}.items():
        other = mine.get(pairs.get(path, ("?",)))
        if other is None:
            continue
        name, kind = ".".join(path), type(module).__name__
        for words, attribute, flax in _SETTINGS:
            a, b = getattr(module, attribute, None), getattr(other, flax, None)
            if a is None or not hasattr(other, flax):
                continue
            a, b = _plain(a), _plain(1 if b is None else b)
            if a != b:
                notes.append(f"{words} {b} of {name} for PyTorch's {a}")
        if "BatchNorm" in kind and isinstance(
            momentum := getattr(other, "momentum", None), float
        ):
            if abs(1 - momentum - module.momentum) > 1e-6:
                notes.append(
                    f"momentum {momentum:g} of {name} for {1 - module.momentum:g}, "
                    f"which PyTorch writes {module.momentum:g}"
                )
            if trained:
                notes.append(
                    f"running variance of {name}: PyTorch's is unbiased, Flax's is not"
                )
        padding, own = getattr(module, "padding", None), getattr(other, "padding", None)
        stride = _plain(getattr(module, "stride", 1))
        if own == "SAME" and padding is not None and stride != 1:
            notes.append(
                f'padding "SAME" of {name} for PyTorch\'s {padding}: with strides Flax '
                "pads more at the end"
            )
        if getattr(module, "padding_idx", None) is not None:
            notes.append(
                f"padding_idx {module.padding_idx} of {name}: its row gets no gradient "
                "in PyTorch"
            )
    return notes


def _first(value: PyTree) -> np.ndarray | None:
    """Return the first array in a value whose entries are known."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, Tracer):
            return None
        if hasattr(leaf, "detach"):
            return leaf.detach().cpu().numpy()
        if isinstance(leaf, jax.Array | np.ndarray):
            return np.asarray(leaf)
    return None


def _apart(
    ours: np.ndarray | None, theirs: np.ndarray | None, size: Sequence[int] | None
) -> float:
    """Return the difference; PyTorch may have channels first."""
    if ours is None or theirs is None:
        return math.inf
    layouts = [theirs]
    if theirs.ndim > 2:
        layouts.append(np.moveaxis(theirs, 1, -1))
    if size and theirs.shape[-1] == math.prod(size):
        images = np.moveaxis(theirs.reshape(-1, *size), 1, -1)
        layouts.append(images.reshape(theirs.shape))
    return min(difference(ours, layout) for layout in layouts)


def _place(path: Path, when: str) -> str:
    return f"{when} {'.'.join(path) or 'the whole module'}"


def _between(theirs: Calls, start: str, end: str) -> list[str]:
    """Return the modules of PyTorch without parameters that run between two places."""
    shown: list[str] = []
    on = start == "the input"
    for path, when, _, module in theirs:
        place = _place(path, when)
        if place == end:
            break
        if on and when == "out of" and not list(module.parameters()):
            shown.append(f"{'.'.join(path)} ({module})")
        on = on or place == start
    return shown if on else []


def _plain(value: PyTree) -> PyTree:
    """Return a number, or a tuple of numbers, one number if all are equal."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values[0] if len(set(values)) == 1 else values
