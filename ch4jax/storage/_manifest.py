"""A tree as JSON: its containers, and a record with a hash of each leaf.

The arrays are kept beside the manifest. Restoring needs no pickle: a manifest names
types, but nothing imports them.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
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
      Refused: if it cannot be told which child is which.
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


def encode(tree: PyTree) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Return the manifest of `tree`, and its arrays by name: their keys, with dots.

    Raises:
      Refused: if a leaf or container could not be restored exactly; names it.
    """
    records: list[leaves.Record] = []
    arrays: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}

    def walk(node: PyTree, path: tuple[str, ...], names: tuple[str, ...]) -> Node:
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
            return len(records) - 1
        for key in container.children:
            if type(key) not in (str, int):
                raise Refused(f"{where} has the key {key!r}: expected a str or an int")
            if type(key) is str and not leaves.survives(key):
                raise Refused(f"{where} has a key with a surrogate pair: {key!r}")
        labels = [label(container.type, key) for key in container.children]
        if len(set(labels)) < len(labels):
            raise Refused(f"{where} has keys that differ only in their type")
        children = [
            walk(child, (*path, step(container.type, key)), (*names, name))
            for (key, child), name in zip(
                container.children.items(), labels, strict=True
            )
        ]
        keys = list(container.children)
        return {"type": container.type, "keys": keys, "children": children}

    root = walk(tree, (), ())
    manifest = {
        "schema": SCHEMA,
        "versions": _versions(),
        "devices": count_devices(tree),
        "tree": root,
        "leaves": records,
    }
    return manifest, arrays


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
        if is_leaf and leaves.is_scalar_of(manifest["leaves"][node], like):
            like = ...
        saved = leaves.spec(manifest["leaves"][node]) if is_leaf else node["type"]
        example = None if like is ... else open_container(like)
        expected = example.type if example else leaves.spec(like)
        if like is not ... and expected != saved:
            problems.append(f"{where}: {saved} was saved, expected {expected}")
            return None
        if is_leaf:
            record = manifest["leaves"][node]
            return leaves.decode(record, arrays.get(tensor(record, node)), like)
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


def label(kind: str, key: str | int) -> str:
    """Return what a child adds to the name of an array: `kernel`, `0`, `params`."""
    return str(key) if kind in PLAIN else str(key).strip(".[]'")


def tensor(record: leaves.Record, number: int) -> str:
    """Return the name of the array of a leaf; in the first schema, its number."""
    return record.get("tensor", str(number))


def nested(manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """Return the arrays in dictionaries and lists, with None for every other leaf."""

    def walk(node: Node) -> PyTree:
        if isinstance(node, int):
            return arrays.get(manifest["leaves"][node].get("tensor"))
        children = [walk(child) for child in node["children"]]
        if node["type"] in ("list", "tuple"):
            return children
        labels = [label(node["type"], key) for key in node["keys"]]
        return dict(zip(labels, children, strict=True)) if children else None

    root = manifest["tree"]
    return {"params": walk(root)} if isinstance(root, int) else walk(root)


def count_devices(tree: PyTree) -> int:
    """Return the most devices that one array is spread over; 0 without JAX arrays."""
    if container := open_container(tree):
        return max(map(count_devices, container.children.values()), default=0)
    sharding = getattr(tree, "sharding", None)
    return len(sharding.device_set) if sharding else 0


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
