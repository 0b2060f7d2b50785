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
from flax import nnx
from jax.tree_util import DictKey, KeyPath, keystr, tree_flatten_with_path
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


class Leaf(NamedTuple):
    """A parameter without its values."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    entries: int
    num_bytes: int


def flatten(tree: PyTree) -> dict[str, Any]:
    """Return the leaves by path, in the order of the tree's dictionaries.

    From `init` that is the order in which the layers compute. What passes through
    `jax.jit` or `jax.tree.map` comes back sorted by name.

    Raises:
      ValueError: if two leaves have the same path, as a key with a slash may cause.
    """
    flat: dict[str, Any] = {}

    def note(path: str, leaf: Any) -> Any:
        if path in flat:
            raise ValueError(f"two leaves have the path {path}")
        flat[path] = leaf
        return leaf

    _map(note, tree)
    return flat


def summary(tree: PyTree) -> list[Leaf]:
    """Return path, shape, dtype, number of entries and of bytes of each leaf.

    `tree` may hold shapes alone, as `jax.eval_shape` returns them.
    """
    return [
        Leaf(path, a.shape, str(a.dtype), a.size, a.size * a.dtype.itemsize)
        for path, leaf in flatten(tree).items()
        for a in [leaf if hasattr(leaf, "dtype") else np.asarray(leaf)]
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


def layout(module: nn.Module | nnx.Module, *inputs: PyTree) -> str:
    """Return a module as nested layers with their sizes, as PyTorch prints one.

    >>> net = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
    >>> print(layout(net, jnp.zeros((2, 4))))
    Sequential(
      (layers_0): Dense(4 -> 8)
      (layers_1): relu
      (layers_2): Dense(8 -> 1)
    )

    As in PyTorch, a function that a module calls by itself is not a layer, and is not
    shown; one in the list of a sequence is.

    Args:
      module: of Linen or NNX.
      *inputs: what a Linen module is called with; nothing is computed.
    """
    if isinstance(module, nnx.Module):
        return _nnx_layout(module)
    layers: dict[tuple[str, ...], nn.Module] = {}
    sizes: dict[tuple[str, ...], str] = {}

    def record(call: Callable[..., Array], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = context.module.path
        layers.setdefault(path, context.module)  # before those that it calls
        result = call(*args, **kwargs)
        sizes[path] = f"{_widths(args[:1] or kwargs)} -> {_widths(result)}"
        return result

    def draw(path: tuple[str, ...]) -> str:
        inside = {
            other[-1]: draw(other) for other in layers if other[:-1] == path != other
        }
        # Functions in a sequence are called by no module.
        listed = getattr(layers[path], "layers", ())
        if isinstance(listed, Sequence):  # of Linen's Sequential, not a number of them
            names = {f"layers_{i}": _name(layer) for i, layer in enumerate(listed)}
            inside = names | inside
        return _layout(_name(layers[path]), inside, sizes[path])

    with nn.intercept_methods(record):
        jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return draw(())


def _nnx_layout(module: nnx.Module) -> str:
    inside: dict[str, str] = {}
    for name, value in vars(module).items():
        if isinstance(value, list | tuple | nnx.List):
            for i, layer in enumerate(value):
                drawn = isinstance(layer, nnx.Module)
                inside[f"{name}_{i}"] = _nnx_layout(layer) if drawn else _name(layer)
        elif isinstance(value, nnx.Module) and not isinstance(value, nnx.Rngs):
            inside[name] = _nnx_layout(value)
    size = ""
    if isinstance(module, nnx.Linear):
        size = f"{module.in_features} -> {module.out_features}"
    return _layout(_name(module), inside, size)


def _name(layer: Any) -> str:
    return getattr(layer, "__name__", type(layer).__name__)


def _widths(arrays: PyTree) -> str:
    shapes = [getattr(array, "shape", ()) for array in jax.tree.leaves(arrays)]
    return ", ".join(str(shape[-1]) if shape else "a number" for shape in shapes)


def _layout(kind: str, inside: Mapping[str, str], size: str) -> str:
    if not inside:
        return f"{kind}({size})"
    lines = "\n".join(f"({name}): {text}" for name, text in inside.items())
    return f"{kind}(\n{indent(lines, '  ')}\n)"


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


def replace(tree: PyTree, path: str, value: Any) -> PyTree:
    """Return `tree` with `value`, an array like the one that it replaces, at `path`.

    Raises:
      KeyError: if there is no such path.
      ValueError: if `value` has another shape, dtype or type than what it replaces.
    """
    old = get(tree, path)
    if _spec(value) != _spec(old):
        raise ValueError(f"{path} has {_spec(old)}, got {_spec(value)}")
    new = jnp.asarray(value) if isinstance(old, Array) else value
    return _map(lambda here, leaf: new if here == path else leaf, tree)


def _spec(leaf: Any) -> str:
    if hasattr(leaf, "dtype"):
        return f"shape {leaf.shape} and dtype {leaf.dtype}"
    return f"type {type(leaf).__name__}"


def reinitialize(
    tree: PyTree, rules: Mapping[str, nn.initializers.Initializer], *, key: PRNGKeyArray
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
    _check_patterns(rules, tree)

    def draw(path: str, leaf: Any) -> Any:
        for pattern, init in rules.items():
            if _matches(path, pattern):
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
    _check_patterns(patterns, params)

    def label(path: str, _: Any) -> str:
        frozen = any(_matches(path, pattern) for pattern in patterns)
        return "frozen" if frozen else "trained"

    labels = _map(label, params)
    # Adding 0.0 would turn -0.0 into 0.0; adding -0.0 changes no number.
    nothing = optax.chain(optax.set_to_zero(), optax.scale(-1.0))
    return optax.partition({"trained": optimizer, "frozen": nothing}, labels)


def _matches(path: str, pattern: str) -> bool:
    """Return whether `path` has the form of `pattern`, in which only `*` is special."""
    return fnmatchcase(path, pattern.replace("[", "[[]").replace("?", "[?]"))


def _map(f: Callable[[str, Any], Any], tree: PyTree, keys: KeyPath = ()) -> PyTree:
    """Apply `f` to each path and leaf; `jax.tree.map` would sort dictionaries."""
    if type(tree) is dict:
        return {k: _map(f, child, (*keys, DictKey(k))) for k, child in tree.items()}
    children, treedef = tree_flatten_with_path(tree, lambda node: node is not tree)
    if [path for path, _ in children] == [()]:
        return f(keystr(keys, simple=True, separator="/"), tree)
    mapped = [_map(f, child, (*keys, *path)) for path, child in children]
    return jax.tree.unflatten(treedef, mapped)


def _check_patterns(patterns: Iterable[str], tree: PyTree) -> None:
    paths = list(flatten(tree))
    for pattern in patterns:
        if not any(_matches(path, pattern) for path in paths):
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
