"""Pair each PyTorch tensor with a leaf of a tree, by name.

The parts of a dotted name and the keys of a path are the same, except:

- The collections `params` and `constants` are left out; buffers are constants.
- `kernel` or `w`, (in, out), is PyTorch's `weight`, (out, in), and `b` its `bias`; with
  one output, `w` may be (in,) and `b` (). A leaf called `weight` is not transposed.
- A `kernel` of three axes and a `bias` of two hold layers stacked along the first axis:
  the tensors `0.weight`, `1.weight` and so on.
- Where PyTorch has only numbers, and we have as many keys of one word and a number
  (`Dense_0`, `layers_0`, positions in a list), the k-th matches the k-th.
- `names`, if the caller gives it, takes precedence.

If names do not pair them, layers whose shapes fit one counterpart only are paired by
shape; where several fit, the error prints a mapping to confirm.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import PyTree

from ch4jax.errors import Mismatch

Keys = tuple[str, ...]
Shape = tuple[int, ...]
_ALIASES = {"weight": ("kernel", "w"), "bias": ("b",)}


class Slot(NamedTuple):
    """The leaf, or the layer of a leaf of stacked layers, for one tensor.

    Attributes:
      path: of the leaf, with the layer if there are several.
      leaf: number of the leaf in the flattened tree.
      layer: index along the first axis of a leaf of stacked layers, else None.
      shape: of the array, or of one layer of it.
      torch_shape: of the tensor.
      transposed: whether the tensor is the array transposed.
    """

    path: str
    leaf: int
    layer: int | None
    shape: Shape
    torch_shape: Shape
    transposed: bool


def slots_of(tree: PyTree) -> dict[Keys, Slot]:
    """Return the slots of a tree in order, by path without the collection."""
    slots: dict[Keys, Slot] = {}
    for n, (keys, leaf) in enumerate(tree_flatten_with_path(tree)[0]):
        path = tuple(keystr((key,), simple=True) for key in keys)
        if not path:
            raise Mismatch("the tree is a single array: expected arrays by name")
        full = "/".join(path)
        *module, name = path[1:] if path[0] in ("params", "constants") else path
        stacked = len(leaf.shape) == {"kernel": 3, "bias": 2}.get(name)
        shape = leaf.shape[1:] if stacked else leaf.shape
        match name, len(shape):
            case (("kernel" | "w"), 2):
                torch_shape = shape[::-1]
            case "kernel", axes:
                raise Mismatch(f"{full} has {axes} axes: only Dense is known here")
            case "w", 1:
                torch_shape = (1, *shape)
            case "b", 0:
                torch_shape = (1,)
            case _:
                torch_shape = shape
        for layer in range(leaf.shape[0]) if stacked else [None]:
            here = (*module, name) if layer is None else (*module, str(layer), name)
            if here in slots:
                raise Mismatch(f"{slots[here].path} and {full} have one name")
            label = full if layer is None else f"{full}[{layer}]"
            transposed = name in ("kernel", "w")
            slots[here] = Slot(label, n, layer, shape, torch_shape, transposed)
    return slots


def pair(
    shapes: Mapping[str, Shape], slots: Mapping[Keys, Slot], names: Mapping[str, str]
) -> dict[str, Slot]:
    """Return the slot of each tensor; no tensor and no slot is left over.

    Args:
      shapes: of the tensors, by name.
      slots: as `slots_of` returns them.
      names: see `from_torch`.

    Raises:
      Mismatch: a line for each tensor and each slot without a counterpart, and for
        each pair whose shapes differ.
    """
    for start in names:
        if not any(f"{name}.".startswith(f"{start}.") for name in shapes):
            raise Mismatch(f"no tensor's name starts with {start!r}, as `names` has it")
    renamed = {name: _rename(name, names) for name in shapes}

    @cache
    def place(keys: Keys) -> Keys:
        if not keys:
            return ()
        above = place(keys[:-1])
        theirs = _children(renamed.values(), keys[:-1])
        return (*above, _translate(theirs, _children(slots, above))[keys[-1]])

    pairs = {
        name: slots[path]
        for name, keys in renamed.items()
        if (path := place(keys)) in slots
    }
    lonely = {name: shape for name, shape in shapes.items() if name not in pairs}
    taken = set(pairs.values())
    empty = {slot.path: slot for slot in slots.values() if slot not in taken}
    problems = [
        f"{name} {shapes[name]} does not fit {slot.path} {slot.shape}"
        for name, slot in pairs.items()
        if shapes[name] != slot.torch_shape
    ]
    for name, shape in lonely.items():
        others = {path: slot.shape for path, slot in empty.items()}
        fitting = [path for path in empty if empty[path].torch_shape == shape]
        problems.append(_alone(name, shape, fitting, others))
    for path, slot in empty.items():
        fitting = [name for name in lonely if lonely[name] == slot.torch_shape]
        problems.append(_alone(path, slot.shape, fitting, lonely))
    if not problems:
        return pairs
    guess, certain = _by_shapes(shapes, slots) if not names else ({}, False)
    if certain:
        return pair(shapes, slots, guess)
    if guess:
        problems.append(
            "several layers have equal shapes; if both sides list them in the same "
            f"order, pass names={guess}"
        )
    raise Mismatch("\n".join(problems))


def _by_shapes(
    shapes: Mapping[str, Shape], slots: Mapping[Keys, Slot]
) -> tuple[dict[str, str], bool]:
    """Match layers by the shapes of their parameters, whatever their names.

    Returns:
      The `names` that pair them, empty if there is no match, and whether no other
      match is possible.
    """
    ours: dict[str, dict[str, Shape]] = defaultdict(dict)
    theirs: dict[str, dict[str, Shape]] = defaultdict(dict)
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        theirs[layer][leaf] = shape
    canonical = {alias: name for name, all_of in _ALIASES.items() for alias in all_of}
    for (*layer, leaf), slot in slots.items():
        ours["/".join(layer)][canonical.get(leaf, leaf)] = slot.torch_shape
    groups: dict[Any, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, layers in enumerate((theirs, ours)):
        for layer in sorted(layers, key=_natural) if side else layers:
            groups[tuple(sorted(layers[layer].items()))][side].append(layer)
    if any(len(a) != len(b) for a, b in groups.values()) or "" in theirs:
        return {}, False
    found = {a: b for pair in groups.values() for a, b in zip(*pair, strict=True)}
    return found, all(len(layers) == 1 for layers, _ in groups.values())


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort `layers_2` before `layers_10`."""
    return [(int(part or 0), word) for word, part in re.findall(r"(\D+)(\d*)", path)]


def _rename(name: str, names: Mapping[str, str]) -> Keys:
    for start in sorted(names, key=len, reverse=True):
        if f"{name}.".startswith(f"{start}."):
            rest = name[len(start) + 1 :]
            return tuple(filter(None, (*names[start].split("/"), *rest.split("."))))
    return tuple(name.split("."))


def _children(paths: Iterable[Keys], above: Keys) -> set[str]:
    depth = len(above)
    return {path[depth] for path in paths if path[:depth] == above and path[depth:]}


def _translate(theirs: set[str], ours: set[str]) -> dict[str, str]:
    """Return our name for each of their siblings, or theirs if we have none."""
    numbered = [re.fullmatch(r"(.*?)(\d+)", name) for name in ours]
    words = {match and match[1] for match in numbered}
    as_many = len(theirs) == len(ours) and all(map(str.isdecimal, theirs))
    if as_many and len(words) == 1 and None not in words:
        in_order = sorted(ours, key=lambda name: (len(name), name))
        return dict(zip(sorted(theirs, key=int), in_order, strict=True))
    return {
        name: next((n for n in (name, *_ALIASES.get(name, ())) if n in ours), name)
        for name in theirs
    }


def _alone(
    name: str, shape: Shape, fitting: list[str], others: Mapping[str, Shape]
) -> str:
    line = f"{name} {shape} has no counterpart"
    if len(fitting) > 1:
        return f"{line}; {' and '.join(fitting)} would fit: say which by `names`"
    if fitting:
        fit = f"{fitting[0]} {others[fitting[0]]}"
        return f"{line}; {fit} would fit: say so by `names`"
    if close := get_close_matches(name, others, n=1, cutoff=0.0):
        return f"{line}; closest: {close[0]} {others[close[0]]}"
    return line
