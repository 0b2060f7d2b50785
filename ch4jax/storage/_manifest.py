"""A tree told in JSON: its containers, and a record with a hash of each leaf.

Arrays stay out of it. The tree is rebuilt from both without pickle: a manifest names
types, and imports none.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

import ch4jax.storage._leaves as leaves
import ch4jax.storage.atomic as atomic
from ch4jax.errors import Damaged, Mismatch, Refused

SCHEMA = 1
DEEPEST = 100
SHOWN = 5
PLAIN = {"dict", "list", "tuple", "None"}  # what is rebuilt without an example
PACKAGES = ("ch4jax", "jax", "numpy", "orbax-checkpoint", "safetensors")


class Container(NamedTuple):
    """A container, opened.

    Attributes:
      type: one of `PLAIN`, or the name of another type in angle brackets.
      keys: of a dictionary, or positions, or how a path shows the children.
      children: one for each key.
    """

    type: str
    keys: list[Any]
    children: list[Any]

    def steps(self) -> list[str]:
        """Return what each key adds to a path: `['kernel']`, `[0]`, `.params`."""
        if self.type in PLAIN:
            return [f"[{key!r}]" for key in self.keys]
        return self.keys


def open_container(node: Any) -> Container | None:
    """Return a container, opened; None for a leaf."""
    if node is None:
        return Container("None", [], [])
    if type(node) is dict:
        return Container("dict", list(node), list(node.values()))
    if type(node) in (list, tuple):
        return Container(type(node).__name__, list(range(len(node))), list(node))
    pairs, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    if len(pairs) == 1 and not pairs[0][0]:
        return None
    keys = [jax.tree_util.keystr(path) for path, _ in pairs]
    return Container(f"<{type(node).__name__}>", keys, [child for _, child in pairs])


def describe(tree: PyTree) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the manifest of `tree`, and its arrays by the number of the leaf.

    Raises:
      Refused: if some leaf or container could not be brought back; names it.
    """
    records: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}

    def walk(node: Any, path: tuple[str, ...]) -> Any:
        where = "".join(path) or "the tree"
        if len(path) > DEEPEST:
            raise Refused(f"containers stand more than {DEEPEST} deep: {where}")
        container = open_container(node)
        if container is None:
            record, array = leaves.describe(node, where)
            if array is not None:
                arrays[str(len(records))] = array
            records.append(record)
            return len(records) - 1
        for key in container.keys:
            if type(key) not in (str, int):
                raise Refused(f"{where} has the key {key!r}: expected a str or an int")
        children = [
            walk(child, (*path, step))
            for child, step in zip(container.children, container.steps(), strict=True)
        ]
        return {"type": container.type, "keys": container.keys, "children": children}

    described = walk(tree, ())
    manifest = {
        "schema": SCHEMA,
        "versions": dict(_versions()),
        "devices": count_devices(tree),
        "tree": described,
        "leaves": records,
    }
    return manifest, arrays


def count_devices(tree: PyTree) -> int:
    """Return the most devices that one array is spread over; 0 without JAX arrays."""
    if container := open_container(tree):
        return max(map(count_devices, container.children), default=0)
    sharding = getattr(tree, "sharding", None)
    return len(sharding.device_set) if sharding else 0


def check_like(manifest: dict[str, Any], like: PyTree) -> None:
    """Hold what was saved against `like`, where `...` stands for anything.

    Raises:
      Mismatch: names the leaves that are missing, or more, or other than in `like`.
    """

    def walk(node: Any, like: Any, path: str) -> Iterator[str]:
        where = path or "the tree"
        container = None if like is ... else open_container(like)
        if isinstance(node, int):
            record = manifest["leaves"][node]
            if container is not None:
                saved = leaves.spec(record)
                yield f"{where}: {saved} was saved, expected {container.type}"
            elif problem := leaves.mismatch(record, like):
                yield f"{where}: {problem}"
            return
        saved = Container(**node)
        steps = dict(zip(saved.keys, saved.steps(), strict=True))
        if like is ...:
            if saved.type not in PLAIN:
                yield f"{where}: {saved.type} was saved, which `like` has to show"
            for key, child in zip(saved.keys, saved.children, strict=True):
                yield from walk(child, ..., path + steps[key])
            return
        if container is None or container.type != saved.type:
            expected = leaves.spec(like) if container is None else container.type
            yield f"{where}: {saved.type} was saved, expected {expected}"
            return
        examples = dict(zip(container.keys, container.children, strict=True))
        for key, child in zip(saved.keys, saved.children, strict=True):
            if key in examples:
                yield from walk(child, examples[key], path + steps[key])
            else:
                yield f"{path}{steps[key]}: was saved, but is not expected"
        for key, step in zip(container.keys, container.steps(), strict=True):
            if key not in steps:
                yield f"{path}{step}: is expected, but was not saved"

    if problems := list(walk(manifest["tree"], like, "")):
        hidden = len(problems) - SHOWN
        more = [f"and {hidden} more"] if hidden > 0 else []
        raise Mismatch("; ".join(problems[:SHOWN] + more))


def rebuild(
    manifest: dict[str, Any], arrays: Mapping[str, np.ndarray], like: PyTree
) -> PyTree:
    """Return the tree; its leaves are made like those of `like`.

    Args:
      manifest: what `describe` returned, and `check_like` has nothing against.
      arrays: what `describe` returned; bytes count, not dtypes and shapes.
      like: what `check_like` took.

    Raises:
      Damaged: if the bytes of a leaf are not those that were saved; names it.
    """

    def walk(node: Any, like: Any) -> Any:
        if isinstance(node, int):
            return leaves.make(manifest["leaves"][node], arrays.get(str(node)), like)
        kind, keys = node["type"], node["keys"]
        examples = dict.fromkeys(keys, ...)
        if like is not ... and (container := open_container(like)):
            examples = dict(zip(container.keys, container.children, strict=True))
        children = [
            walk(child, examples[key])
            for key, child in zip(keys, node["children"], strict=True)
        ]
        if kind in PLAIN:
            plain = {"list": list, "tuple": tuple, "None": lambda _: None}
            pairs = zip(keys, children, strict=True)
            return dict(pairs) if kind == "dict" else plain[kind](children)
        outermost = jax.tree.structure(like, is_leaf=lambda child: child is not like)
        return jax.tree.unflatten(outermost, children)

    return walk(manifest["tree"], like)


def seal(content: dict[str, Any]) -> str:
    """Return JSON that holds `content` and the SHA-256 of it.

    Raises:
      Refused: if JSON cannot hold `content`.
    """
    try:
        content = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"JSON cannot hold this: {error}") from None
    return json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n"


def unseal(path: Path) -> dict[str, Any]:
    """Return what a file holds that `seal` made, as JSON holds it.

    Raises:
      Damaged: if it is not that any more.
      Mismatch: if it is of another schema.
    """
    try:
        content = json.loads(atomic.read(path))
        sealed = content.pop("sha256")
        intact = sealed == _digest(content)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{path.name} is not the JSON that was written") from None
    if not intact:
        raise Damaged(f"{path.name} has the wrong SHA-256")
    if content["schema"] != SCHEMA:
        found = content["schema"]
        raise Mismatch(f"{path.name} has schema {found}, expected {SCHEMA}")
    return content


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, importlib.metadata.version(name)) for name in PACKAGES)


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
