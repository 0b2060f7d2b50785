"""Parameters of PyTorch to and from trees of arrays and NNX modules.

`_torch_names` pairs layers, `_layers` has how the two sides lay them out. PyTorch is
optional: only what needs it imports it.
"""

import itertools
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr, tree_flatten_with_path

from ch4jax.errors import Mismatch
from ch4jax.interop._layers import Form, Keys, Piece, canonical, flatten_images
from ch4jax.interop._nnx import variables_of
from ch4jax.interop._torch_names import COUNTER, Layer, Tree, pair
from ch4jax.storage._leaves import DTYPES, NATIVE, needs_x64, raw_bytes

if TYPE_CHECKING:
    import torch

StateDict = Mapping[str, Any]  # tensors, or NumPy's arrays
Names = Mapping[str, str] | None
Sizes = Mapping[str, Sequence[int]] | None

_COLLECTIONS = {"params", "constants", "batch_stats"}
_DTYPES = {name: DTYPES[name] for name in (*NATIVE, "bfloat16")}  # PyTorch has them
_STATISTICS = ("running_mean", "running_var")
_CONVOLUTION = re.compile(r"(Conv|ConvTranspose)_\d+")  # as Linen names them


def from_torch(
    source: Any,
    like: Any = None,
    *,
    names: Names = None,
    flattened: Sizes = None,
    gradients: bool = False,
) -> Any:
    """Return a tree of JAX arrays, or an NNX module, with the values of PyTorch's.

    Layers are paired by structure and shapes first, then by names; where several fit,
    the error prints the `names` to confirm.

    Args:
      source: a module of PyTorch, or tensors or NumPy arrays by name. They are copied
        and keep their dtypes. From a module it is known which layers are transposed
        convolutions and embeddings; from a `state_dict` only if the shapes show it.
      like: an NNX module, or a tree with the structure and the shapes that you want,
        from `init` or from `jax.eval_shape` of it. It is not changed. None: `source` is
        a tensor, or lists, tuples and dictionaries of tensors, and the arrays come back
        in the same structure.
      names: maps the start of a name in PyTorch to the path that replaces it:
        `{"2": "shared", "4": "shared"}`.
      flattened: PyTorch's layers before or after which images are flattened, with the
        (channels, *space) of an image. Flax has channels last, so rows are permuted.
        Pass `{}` if your module moves the channels before it flattens.
      gradients: take the gradients of the module's parameters, or know that `source`
        holds some; `like` has parameters only, or is an NNX module, whose other
        variables stay. PyTorch's recurrent layers have two biases that are added, where
        Flax has one, whose gradient is that of either.

    Raises:
      Mismatch: if an entry is missing, unexpected or of another shape, one line for
        each, up to a few; if several layers fit; if a tensor would not keep its dtype;
        if one leaf gets two values.
    """
    if like is None:
        return map_tensors(lambda t, name: jnp.array(to_numpy(t, name)), source, "it")
    tensors = tensors_of(source, "the state_dict", gradients=gradients)
    tree, leaves = _tree(like, nnx.Param if gradients else nnx.Variable)
    filled: dict[Keys, np.ndarray] = {}
    written: set[Piece] = set()

    def write(piece: Piece, values: np.ndarray, name: str) -> None:
        if not piece.leaf:
            if values.any():
                raise Mismatch(f"{name} is not zero where Flax has no parameter")
            return
        leaf = filled.setdefault(
            piece.leaf, np.empty(tree.shapes[piece.leaf], values.dtype)
        )
        if leaf.dtype != values.dtype:
            raise Mismatch(
                f"{name} is {values.dtype}, and other layers are {leaf.dtype}"
            )
        view = piece.view(leaf)
        if piece in written and not gradients:
            view += values.reshape(view.shape)
        else:
            view[...] = values.reshape(view.shape)
        written.add(piece)

    for layer, form in _pairs(tensors, source, tree, names, flattened):
        for tensor, pieces in form.tensors.items():
            name, values = _one_value(tensors, layer.tensors[tensor], tree, pieces[0])
            for piece, part in zip(pieces, _parts(values, pieces), strict=True):
                write(piece, part, name)
    arrays = {
        keys: jnp.array(filled.get(keys, np.zeros(leaf.shape, leaf.dtype)))
        for keys, leaf in leaves.items()
    }
    if isinstance(like, nnx.Module):
        return _updated(like, arrays)
    return jax.tree.unflatten(jax.tree.structure(like), arrays.values())


def to_torch(
    params: Any, like: Any, *, names: Names = None, flattened: Sizes = None
) -> dict[str, "torch.Tensor"]:
    """Return a `state_dict` with the values of a tree of arrays or an NNX module.

    Args:
      params: its leaves are copied and keep their dtypes.
      like: the module of PyTorch that you want to load them into, or its `state_dict`;
        of this only names and shapes matter, and which tensors share memory. Names that
        share one leaf get one tensor. `num_batches_tracked` stays as it is, and so do a
        module's buffers that `params` lacks.
      names: see `from_torch`.
      flattened: see `from_torch`.

    Raises:
      Mismatch: see `from_torch`; or if tensors that share memory would differ.
    """
    torch = import_torch()
    tensors, (tree, leaves) = tensors_of(like, "`like`"), _tree(params)
    found: dict[str, Any] = {}
    for layer, form in _pairs(tensors, like, tree, names, flattened):
        written: set[Piece] = set()
        for tensor, pieces in form.tensors.items():
            dtype = leaves[pieces[0].leaf].dtype
            parts = [
                np.zeros(piece.shape, dtype)
                if piece in written or not piece.leaf
                else piece.view(np.asarray(leaves[piece.leaf])).reshape(piece.shape)
                for piece in pieces
            ]
            written |= set(pieces)
            array = np.concatenate(parts) if parts[1:] else parts[0]
            value = to_tensor(array, tree.labels[pieces[0].leaf])
            found |= dict.fromkeys(layer.tensors[tensor], value)
    for same in one_memory(tensors):
        first, *rest = [name for name in same if name in found]
        for name in rest:
            if not torch.equal(found[first], found[name]):
                raise Mismatch(f"{first} and {name} are one tensor, but would differ")
        found |= dict.fromkeys(same, found[first])
    for name in tensors.keys() - found:  # counters, and what only PyTorch has
        value = tensors[name]
        meta = name.endswith(COUNTER) and is_tensor(value) and value.is_meta
        value = torch.tensor(0) if meta else torch.as_tensor(value)
        found[name] = plain_tensor(value, name).clone()
    return {name: found[name] for name in tensors}


def layer_pairs(source: Any, like: Any, *, names: Names = None) -> dict[str, str]:
    """Return the path of our layer for the name of each of PyTorch's.

    Args: see `from_torch`.

    Raises:
      Mismatch: see `from_torch`.
    """
    tree, _ = _tree(like)
    leaves: dict[str, list[Keys]] = {}
    for layer, form in _pairs(tensors_of(source, "`source`"), source, tree, names, {}):
        paths = [canonical(piece.leaf)[0] for piece in form.pieces if piece.leaf]
        leaves.setdefault(".".join(layer.start), []).extend(paths)
    # A prefix of tuples, of which the function of that name is capable.
    return {name: "/".join(commonprefix(paths)) for name, paths in leaves.items()}  # noqa: RUF071


def import_torch() -> ModuleType:
    """Import PyTorch, or say what to install."""
    try:
        import torch
    except ModuleNotFoundError as error:
        message = 'this needs PyTorch: pip install "ch4jax[torch]"'
        raise ImportError(message, name="torch") from error
    return torch


def is_tensor(value: object) -> bool:
    """Whether the value is PyTorch's, which is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensors_of(source: Any, where: str, *, gradients: bool = False) -> StateDict:
    """Return the tensors by name of a module or a `state_dict`."""
    torch = sys.modules.get("torch")
    if torch and isinstance(source, torch.nn.Module):
        source = (
            {n: p.grad for n, p in source.named_parameters(remove_duplicate=False)}
            if gradients
            else source.state_dict()
        )
    if not isinstance(source, Mapping):
        kind = type(source).__name__
        raise Mismatch(f"{where} is a {kind}: expected tensors by name")
    for name, tensor in source.items():
        if not isinstance(name, str):
            raise Mismatch(f"{where} has the key {name!r}: expected a name")
        if not is_tensor(tensor) and not isinstance(tensor, np.ndarray):
            kind = type(tensor).__name__
            raise Mismatch(f"{name} in {where} is a {kind}: expected a tensor")
        if torch and torch.nn.parameter.is_lazy(tensor):
            raise Mismatch(f"{name} in {where} has no shape yet: run its module once")
    return source


def map_tensors(f: Callable[[Any, str], Any], value: Any, where: str) -> Any:
    """Apply `f` to each tensor, and its place, in lists, tuples and dictionaries."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise Mismatch(f"{where} has the key {name!r}: expected a name")
        return {
            name: map_tensors(f, item, f"{name} in {where}")
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [map_tensors(f, v, f"{i} in {where}") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if not is_tensor(value) and not isinstance(value, np.ndarray):
        raise Mismatch(f"{where} is a {type(value).__name__}: expected a tensor")
    return f(value, where)


def to_numpy(tensor: Any, name: str) -> np.ndarray:
    """Return a tensor as an array of the same dtype, in order; never a copy of bits."""
    dtype = _shared_dtype(str(tensor.dtype).removeprefix("torch."), name)
    if needs_x64(dtype):
        raise Mismatch(f"{name} is {dtype}, which needs jax_enable_x64")
    if isinstance(tensor, np.ndarray):
        return tensor
    flat = plain_tensor(tensor, name).cpu().reshape(-1)
    as_bytes = flat.view(import_torch().uint8).numpy()
    return as_bytes.view(dtype).reshape(tensor.shape)


def plain_tensor(tensor: "torch.Tensor", name: str) -> "torch.Tensor":
    """Return a tensor with its values in order, conjugated or negated if it is so."""
    if tensor.is_meta:
        raise Mismatch(f"{name} is on the meta device: it has no values")
    if tensor.layout != import_torch().strided:
        raise Mismatch(f"{name} is {tensor.layout}: expected a dense tensor")
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def to_tensor(array: np.ndarray, path: str) -> "torch.Tensor":
    torch = import_torch()
    dtype = _shared_dtype(str(array.dtype), path)  # its name has no byte order
    tensor = torch.empty(array.shape, dtype=getattr(torch, dtype.name))
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = raw_bytes(array)
    return tensor


def _shared_dtype(dtype: str, name: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise Mismatch(f"{name} is {dtype}: expected a dtype of NumPy's, or bfloat16")
    return _DTYPES[dtype]


def _parts(values: np.ndarray, pieces: tuple[Piece, ...]) -> list[np.ndarray]:
    """Split a tensor along its first axis into its pieces."""
    if len(pieces) == 1:
        return [values]
    return np.split(values, np.cumsum([piece.shape[0] for piece in pieces])[:-1])


def _one_value(
    tensors: StateDict, names: list[str], tree: Tree, piece: Piece
) -> tuple[str, np.ndarray]:
    first, *others = names
    values = to_numpy(tensors[first], first)
    for name in others:
        other = to_numpy(tensors[name], name)
        if (other.dtype, other.tobytes()) != (values.dtype, values.tobytes()):
            label = tree.labels[piece.leaf]
            raise Mismatch(f"{first} and {name} are one {label}, but not equal")
    return first, values


def _tree(
    like: Any, wanted: type[nnx.Variable] = nnx.Variable
) -> tuple[Tree, dict[Keys, Any]]:
    """Return the layers of a tree or an NNX module to pair, and its leaves, by path."""
    kinds: dict[Keys, tuple[str, bool | None]] = {}
    if isinstance(like, nnx.Module):
        once = {id(variable): path for path, variable in reversed(variables_of(like))}
        paths = [
            (tuple(map(str, path)), variable.get_value())
            for path, variable in variables_of(like)
            if once[id(variable)] == path and isinstance(variable, wanted)
        ]
        for path, module in nnx.iter_modules(like):
            if isinstance(module, nnx.Conv | nnx.ConvTranspose):
                flipped = getattr(module, "transpose_kernel", None)
                kind = "Conv" if flipped is None else "ConvTranspose"
                kinds[tuple(map(str, path))] = kind, flipped
    else:
        paths = [
            (tuple(keystr((key,), simple=True) for key in keys), leaf)
            for keys, leaf in tree_flatten_with_path(like)[0]
        ]
    leaves: dict[Keys, Any] = {}
    labels: dict[Keys, str] = {}
    collections: set[str] = set()
    for path, leaf in paths:
        if not path:
            raise Mismatch("the tree is a single array: expected arrays by name")
        keys = path[1:] if path[0] in _COLLECTIONS and path[1:] else path
        collections |= set(path[: len(path) - len(keys)])
        if keys in leaves:
            raise Mismatch(f"{labels[keys]} and {'/'.join(path)} have one name")
        leaves[keys], labels[keys] = leaf, "/".join(path)
        if path[1:] and (match := _CONVOLUTION.fullmatch(path[-2])):
            kinds[keys[:-1]] = match[1], None
    shapes = {keys: tuple(leaf.shape) for keys, leaf in leaves.items()}
    return Tree(shapes, labels, kinds, collections), leaves


def _updated(module: nnx.Module, arrays: Mapping[Keys, jax.Array]) -> nnx.Module:
    """Return a copy of an NNX module with other values."""
    module = nnx.clone(module)
    embeddings = [m for _, m in nnx.iter_modules(module) if isinstance(m, nnx.Embed)]
    follows = [m for m in embeddings if m.dtype == m.embedding.dtype]
    for path, variable in variables_of(module):
        if (keys := tuple(map(str, path))) in arrays:
            variable.set_value(arrays[keys])
    for embedding in follows:  # it keeps the dtype of its first parameters
        embedding.dtype = embedding.embedding.dtype
    return module


def _pairs(
    tensors: StateDict, source: Any, tree: Tree, names: Names, flattened: Sizes
) -> list[tuple[Layer, Form]]:
    kinds: dict[str, str] = {}
    constants: set[str] = set()  # such as a mask, which Flax may not have as an array
    torch = sys.modules.get("torch")
    if torch and isinstance(source, torch.nn.Module):
        buffers = dict(source.named_buffers(remove_duplicate=False))
        constants = {n for n in buffers if not n.endswith(_STATISTICS)}
        of = {
            "ConvTranspose": torch.nn.modules.conv._ConvTransposeNd,
            "Conv": torch.nn.modules.conv._ConvNd,
            "Embedding": torch.nn.Embedding,
        }
        for name, module in source.named_modules(remove_duplicate=False):
            kinds[name] = next((k for k in of if isinstance(module, of[k])), "")
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith(COUNTER)
    }

    def rank(name: str) -> tuple[bool, bool]:
        named = any(f"{name}.".startswith(f"{start}.") for start in names or {})
        return not named, kinds.get(name.rpartition(".")[0]) != "Embedding"

    # Tied tensors once: under the name that `names` has, or the embedding's.
    again = {n for same in one_memory(tensors) for n in {*same} - {min(same, key=rank)}}
    attempts = itertools.product((constants, set()), (set(), again))
    errors: list[Mismatch] = []
    for without in dict.fromkeys(frozenset(a | b) & {*shapes} for a, b in attempts):
        some = {name: shapes[name] for name in shapes if name not in without}
        try:
            return _flattened(pair(some, tree, names or {}, kinds), flattened)
        except Mismatch as error:
            errors.append(error)
    raise min(errors, key=lambda e: ("names=" not in str(e), str(e).count("\n")))


def one_memory(tensors: StateDict) -> list[list[str]]:
    """Return the names of tensors that share all their memory."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        if is_tensor(tensor) and tensor.layout != import_torch().strided:
            continue
        where = (
            (tensor.data_ptr(), tensor.stride())
            if is_tensor(tensor)
            else (tensor.ctypes.data, tensor.strides)
        )
        if where[0]:
            groups.setdefault((*where, tensor.shape, tensor.dtype), []).append(name)
    return [names for names in groups.values() if names[1:]]


def _flattened(
    pairs: list[tuple[Layer, Form]], flattened: Sizes
) -> list[tuple[Layer, Form]]:
    """Permute what is flattened, or warn of what seems to be."""
    sizes = {name: tuple(size) for name, size in (flattened or {}).items()}
    dense = {
        ".".join(layer.start): layer.shapes["weight"]
        for layer, _ in pairs
        if len(layer.shapes.get("weight", ())) == 2 and layer.kind != "Embedding"
    }
    for n, (layer, form) in enumerate(pairs):
        if size := sizes.pop(".".join(layer.start), None):
            out, into = layer.shapes["weight"]
            if np.prod(size) not in (out, into):
                name = ".".join(layer.start)
                raise Mismatch(f"{name} is {(out, into)}: {size} fits neither")
            pairs[n] = layer, flatten_images(form, size, int(np.prod(size) == into))
    if sizes:
        raise Mismatch(f"`flattened` has {[*sizes]}, but the layers are {[*dense]}")
    if flattened is None:
        convs = [(t.shapes["weight"], f.kind) for t, f in pairs if "Conv" in f.kind]
        outputs = {w[k == "ConvTranspose"] for w, k in convs}
        inputs = {w[0] for w, k in convs if k == "ConvTranspose"}
        made = outputs | {out for out, _ in dense.values()}
        used = inputs | {into for _, into in dense.values()}
        for name, (out, into) in dense.items():
            if (
                into not in made and any(into % c == 0 < c < into for c in outputs)
            ) or (
                out not in used and any(out % c == 0 and 1 < c < out for c in inputs)
            ):
                warnings.warn(
                    f"{name} seems to meet flattened images; Flax has channels last: "
                    f"pass flattened={{{name!r}: (channels, *space)}}, or {{}} if your "
                    "module moves the channels first",
                    stacklevel=4,
                )
    return pairs
