"""A tree as JSON: its containers, and a record with a hash of each leaf.

The arrays are kept beside the manifest. Restoring needs no pickle: a manifest names
types, but nothing imports them.
"""

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

import ch4jax.storage._leaves as leaves
from ch4jax.errors import Mismatch, Refused

SCHEMA = 2  # 1, of version 0.1, numbered the arrays; it is read as well
MAX_DEPTH = 100
MAX_PROBLEMS = 5  # in one message
PLAIN: dict[str, Callable[[dict[Any, PyTree]], PyTree]] = {  # need no example
    "dict": dict,
    "list": lambda children: list(children.values()),
    "tuple": lambda children: tuple(children.values()),
    "None": lambda children: None,
}
# A number in `like` stands for an array of one: Flax's `TrainState` counts its steps
# from an int, and has an array after the first.
SCALARS = {
    bool: r"bool\[\]",
    int: r"u?int\d+\[\]",
    float: r"b?float\w+\[\]",
    complex: r"complex\d+\[\]",
}
PACKAGES = ("ch4jax", "jax", "numpy", "orbax-checkpoint", "safetensors")

Manifest = dict[str, Any]  # see `encode`
Node = int | dict[str, Any]  # the number of a leaf, or a container


class Marker(Enum):
    """What `like` may hold in place of a part that is not to be restored."""

    SKIP = "skip"


class Container(NamedTuple):
    """A container and what it holds.

    Attributes:
      type: one of `PLAIN`, or the name of another type in angle brackets.
      children: by key of a dictionary, by position, or by their `step`.
    """

    type: str
    children: dict[Any, PyTree]


def step(kind: str, key: str | int) -> str:
    """Return what a child adds to a path: `['kernel']`, `[0]`, `.params`."""
    return f"[{key!r}]" if kind in PLAIN else str(key)


def open_container(node: PyTree) -> Container | None:
    """Return what a container holds; None for a leaf.

    Raises:
      Refused: if its children cannot be told apart by name.
    """
    if node is None:
        return Container("None", {})
    if type(node) is dict:
        return Container("dict", node)
    if type(node) in (list, tuple):
        return Container(type(node).__name__, dict(enumerate(node)))
    try:
        pairs, _ = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda child: child is not node
        )
    except TypeError as error:  # JAX sorts the keys of a defaultdict
        raise Refused(f"a {type(node).__name__} has keys of several types") from error
    if len(pairs) == 1 and not pairs[0][0]:
        return None
    children = {jax.tree_util.keystr(path): child for path, child in pairs}
    if len(children) < len(pairs):
        raise Refused(f"a {type(node).__name__} has two children of the same name")
    return Container(f"<{type(node).__name__}>", children)


def encode(tree: PyTree) -> tuple[Manifest, dict[str, np.ndarray], PyTree]:
    """Return the manifest of `tree`, its arrays by name, and its arrays in their place.

    A name is the keys with dots between; the place is in dictionaries and lists, which
    hold None for every other leaf.

    Raises:
      Refused: if a leaf or container could not be restored exactly; names it.
    """
    records: list[leaves.Record] = []
    arrays: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}

    def walk(
        node: PyTree, path: tuple[str, ...], names: tuple[str, ...]
    ) -> tuple[Node, PyTree]:
        where = "".join(path) or "the tree"
        if len(path) > MAX_DEPTH:
            raise Refused(f"containers are nested more than {MAX_DEPTH} deep: {where}")
        container = open_container(node)
        if container is None:
            record, array = leaves.encode(node, where)
            if array is not None:
                name = ".".join(names) if names else "params"
                if (first := paths.setdefault(name, where)) != where:
                    raise Refused(f"{first} and {where} would both be called {name}")
                if name.encode(errors="replace").decode() != name:
                    raise Refused(f"{where} has a name that UTF-8 cannot express")
                arrays[name] = array
                record["tensor"] = name
            records.append(record)
            return len(records) - 1, array
        for key in container.children:
            if type(key) not in (str, int) or not leaves.survives(key):
                raise Refused(
                    f"{where} has the key {key!r}: expected a str or an int, "
                    "and no pair of surrogates"
                )
        keys, places, children = list(container.children), {}, []
        for key, child in container.children.items():
            name = str(key) if container.type in PLAIN else str(key).strip(".[]'")
            if name in places:
                raise Refused(f"{where} has two children that would be called {name}")
            here = (*path, step(container.type, key))
            number, places[name] = walk(child, here, (*names, name))
            children.append(number)
        is_list = container.type in ("list", "tuple")
        place = list(places.values()) if is_list else places or None
        return {"type": container.type, "keys": keys, "children": children}, place

    root, place = walk(tree, (), ())
    manifest = {
        "schema": SCHEMA,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": count_devices(tree),
        "tree": root,
        "leaves": records,
    }
    return manifest, arrays, {"params": place} if isinstance(root, int) else place


def decode(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], like: PyTree
) -> PyTree:
    """Return the tree that `encode` described, from the bytes of the arrays.

    Each leaf has the kind and the devices of the leaf of `like` of the same name, where
    `...` matches anything, and `SKIP` stays as it is.

    Raises:
      Damaged: if the bytes of a leaf are not those that were saved; names it.
      Mismatch: names the leaves that are missing, unexpected or different.
    """
    problems: list[str] = []

    def walk(node: Node, like: PyTree, path: str) -> PyTree:
        if like is Marker.SKIP:
            return like
        where = path or "the tree"
        is_leaf = isinstance(node, int)
        saved = leaves.spec(manifest["leaves"][node]) if is_leaf else node["type"]
        if re.fullmatch(SCALARS.get(type(like), ""), saved):
            like = ...
        example = None if like is ... else open_container(like)
        expected = example.type if example else leaves.spec(like)
        if like is not ... and expected != saved:
            problems.append(f"{where}: {saved} was saved, expected {expected}")
            return None
        if is_leaf:
            record = manifest["leaves"][node]
            return leaves.decode(
                record, arrays.get(record.get("tensor", str(node))), like
            )
        if like is ... and saved not in PLAIN:
            problems.append(f"{where}: {saved} was saved, which needs an example")
            return None
        nodes = dict(zip(node["keys"], node["children"], strict=True))
        examples = example.children if example else dict.fromkeys(nodes, ...)
        children = {}
        for key in {**nodes, **examples}:
            here = path + step(saved, key)
            if key not in examples:
                problems.append(f"{here}: was saved, but is not expected")
            elif key not in nodes:
                problems.append(f"{here}: is expected, but was not saved")
            else:
                children[key] = walk(nodes[key], examples[key], here)
        if problems:
            return None
        if saved in PLAIN:
            return PLAIN[saved](children)
        one_level = jax.tree.structure(like, is_leaf=lambda child: child is not like)
        return jax.tree.unflatten(one_level, [children[key] for key in examples])

    tree = walk(manifest["tree"], like, "")
    if problems:
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        raise Mismatch("; ".join(problems))
    return tree


def count_devices(tree: PyTree) -> int:
    """Return the most devices that one array is spread over; 0 without JAX arrays."""
    if container := open_container(tree):
        return max(map(count_devices, container.children.values()), default=0)
    sharding = getattr(tree, "sharding", None)
    return len(sharding.device_set) if sharding else 0
