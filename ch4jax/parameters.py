"""Parameters by path (D2L 6.2): list, get, replace, re-initialise, freeze, share.

A tree is what `init` of a Linen module returns, or any other tree of arrays; a leaf's
path joins its keys with slashes, as in `params/block0/Dense_0/kernel`. A pattern is a
path in which `*` matches anything, slashes included. No function changes a tree: one
that sets a parameter returns a new tree, which shares all other arrays with the old.
"""

import difflib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from textwrap import indent
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.tree_util import KeyPath, keystr, tree_flatten_with_path, tree_map_with_path
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Leaf(NamedTuple):
    """A parameter without its values."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    entries: int
    num_bytes: int


def flatten(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by path.

    Raises:
      ValueError: if two leaves have the same path, as a key with a slash may cause.
    """
    leaves, _ = tree_flatten_with_path(tree)
    flat: dict[str, Any] = {}
    for keys, leaf in leaves:
        path = _path(keys)
        if path in flat:
            raise ValueError(f"two leaves have the path {path}")
        flat[path] = leaf
    return flat


def summary(tree: PyTree) -> list[Leaf]:
    """Return path, shape, dtype, number of entries and of bytes of each leaf.

    `tree` may hold shapes alone, as `jax.eval_shape` returns them.
    """
    return [
        Leaf(path, a.shape, str(a.dtype), a.size, a.size * a.dtype.itemsize)
        for path, a in flatten(tree).items()
    ]


def count(tree: PyTree) -> int:
    """Return the number of entries of all leaves together."""
    return sum(leaf.entries for leaf in summary(tree))


def num_bytes(tree: PyTree) -> int:
    """Return the bytes that the entries of all leaves take."""
    return sum(leaf.num_bytes for leaf in summary(tree))


def outline(tree: Mapping[str, Any], name: str) -> str:
    """Return nested dictionaries as indented text: a line a module, with its arrays.

    >>> variables = SharedMLP().init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> print(outline(variables["params"], "SharedMLP"))
    SharedMLP
      hidden: kernel (4, 8), bias (8,)
      shared: kernel (8, 8), bias (8,)
      out: kernel (8, 1), bias (1,)

    Args:
      tree: parameters of a module, or all that its `init` returned.
      name: of the module, for the first line.
    """
    modules = {key: node for key, node in tree.items() if isinstance(node, Mapping)}
    arrays = [f"{key} {a.shape}" for key, a in tree.items() if key not in modules]
    lines = [f"{name}: {', '.join(arrays)}" if arrays else name]
    lines += [indent(outline(node, key), "  ") for key, node in modules.items()]
    return "\n".join(lines)


def get(tree: PyTree, path: str) -> Any:
    """Return the leaf at `path`.

    >>> get({"params": {"Dense_0": {"bias": 3.0}}}, "params/Dense_0/bias")
    3.0

    Raises:
      KeyError: if there is none; names the closest paths.
    """
    flat = flatten(tree)
    if path not in flat:
        raise KeyError(f"no parameter {path}; closest: {_closest(path, flat)}")
    return flat[path]


def replace(tree: PyTree, path: str, value: Array | np.ndarray) -> PyTree:
    """Return `tree` with `value` at `path`.

    Raises:
      KeyError: if there is no such path.
      ValueError: if `value` has another shape or dtype than what it replaces.
    """
    old = get(tree, path)
    if (value.shape, value.dtype) != (old.shape, old.dtype):
        raise ValueError(
            f"{path} has shape {old.shape} and dtype {old.dtype}, "
            f"got shape {value.shape} and dtype {value.dtype}"
        )
    return _map(lambda here, leaf: jnp.asarray(value) if here == path else leaf, tree)


def reinitialize(
    tree: PyTree,
    rules: Mapping[str, nn.initializers.Initializer],
    *,
    key: PRNGKeyArray,
) -> PyTree:
    """Return `tree` with every leaf that a rule matches re-initialised.

    Args:
      tree: parameters, or their shapes alone.
      rules: initialiser for each pattern; where several patterns match a leaf, the
        first takes precedence. Leaves that none matches stay.
      key: each leaf draws from it and from its own path, so its values do not depend on
        the other leaves.

    Raises:
      ValueError: if a pattern matches nothing.
    """
    _check_patterns(rules, flatten(tree))

    def draw(path: str, leaf: Any) -> Any:
        for pattern, init in rules.items():
            if fnmatchcase(path, pattern):
                leaf_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
                return init(leaf_key, leaf.shape, leaf.dtype)
        return leaf

    return _map(draw, tree)


def freeze(
    optimizer: optax.GradientTransformation, params: PyTree, patterns: Sequence[str]
) -> optax.GradientTransformation:
    """Return `optimizer` with some parameters frozen: they keep every bit.

    Args:
      optimizer: of the others; frozen parameters have no decay and no momentum.
      params: all parameters; only their paths matter.
      patterns: of the frozen parameters.

    Raises:
      ValueError: if a pattern matches nothing.
    """
    _check_patterns(patterns, flatten(params))

    def label(path: str, _: Array) -> str:
        frozen = any(fnmatchcase(path, pattern) for pattern in patterns)
        return "frozen" if frozen else "trained"

    labels = _map(label, params)
    # Adding 0.0 would turn -0.0 into 0.0; adding -0.0 changes no number.
    nothing = optax.chain(optax.set_to_zero(), optax.scale(-1.0))
    return optax.partition({"trained": optimizer, "frozen": nothing}, labels)


def _path(keys: KeyPath) -> str:
    return keystr(keys, simple=True, separator="/")


def _map(f: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    return tree_map_with_path(lambda keys, leaf: f(_path(keys), leaf), tree)


def _check_patterns(patterns: Iterable[str], paths: Iterable[str]) -> None:
    paths = list(paths)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(
                f"{pattern} matches no parameter; closest: {_closest(pattern, paths)}"
            )


def _closest(path: str, paths: Iterable[str]) -> str:
    return ", ".join(difflib.get_close_matches(path, paths, n=3, cutoff=0.0))


class Block(nn.Module):
    """Two layers, 8 and 4 wide, each followed by ReLU."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch 4"]:
        """Return the activations of the second layer."""
        h = nn.relu(nn.Dense(8)(x))
        return nn.relu(nn.Dense(4)(h))


class RGNet(nn.Module):
    """Four blocks in a row, `block0` to `block3`, and a layer with one output."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch 1"]:
        """Return one number a row."""
        for i in range(4):
            x = Block(name=f"block{i}")(x)
        return nn.Dense(1)(x)


class SharedMLP(nn.Module):
    """Perceptron 8-8-8-1 whose second and third layer are one and the same."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch 1"]:
        """Return one number a row."""
        shared = nn.Dense(8, name="shared")
        h = nn.relu(nn.Dense(8, name="hidden")(x))
        h = nn.relu(shared(nn.relu(shared(h))))
        return nn.Dense(1, name="out")(h)
