"""Parameters of PyTorch to and from trees of arrays.

`_torch_names` pairs tensors with leaves. PyTorch is optional: each function here that
needs it imports it.
"""

import io
import itertools
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.data.files import open_file
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.interop._torch_names import Shape, Slot, pair, slots_of
from ch4jax.storage._leaves import DTYPES, NATIVE, needs_x64, raw_bytes

if TYPE_CHECKING:
    import torch

StateDict = Mapping[str, "torch.Tensor"]

_DTYPES = {name: DTYPES[name] for name in (*NATIVE, "bfloat16")}  # PyTorch has them
_DAMAGE = (RuntimeError, EOFError, IndexError, pickle.UnpicklingError)
MAX_BYTES = 2**36  # of a file
MAX_EXPANDED = 2**30  # bytes of a tensor that repeats the few that are in the file
MAX_STEPS = 2**20  # of unpickling; a tensor takes about 30
_GLOBAL = r"unsupported global:?(?: global)? ([\w.]+)"


def from_torch(
    state_dict: Any, like: PyTree = None, *, names: Mapping[str, str] | None = None
) -> PyTree:
    """Return a tree of JAX arrays with the values of a `state_dict`.

    Args:
      state_dict: tensors by name; they are copied and keep their dtypes. A shared
        layer has several names for one leaf.
      like: a tree with the structure and the shapes that you want, from `init` or from
        `jax.eval_shape` of it. None: `state_dict` is a tensor, or lists, tuples and
        dictionaries of tensors, and the arrays come back in the same structure.
      names: maps the start of a name in `state_dict` to the path that replaces it,
        without its collection: `{"2": "shared", "4": "shared"}`.

    Raises:
      Mismatch: if an entry is missing, unexpected or of another shape, one line for
        each; if a tensor would not keep its dtype; if one leaf gets two values.
    """
    if like is None:
        return _map(lambda t, name: jnp.array(_to_numpy(t, name)), state_dict, "it")
    tensors, slots = _tensors(state_dict, "the state_dict"), slots_of(like)
    arrays: dict[Slot, tuple[str, np.ndarray]] = {}
    for name, slot in pair(_shapes(tensors), slots, names or {}).items():
        array = _to_numpy(tensors[name], name)
        first, kept = arrays.setdefault(slot, (name, array))
        if kept.dtype != array.dtype or kept.tobytes() != array.tobytes():
            raise Mismatch(f"{first} and {name} are one {slot.path}, but not equal")
    layers: dict[int, list[np.ndarray]] = defaultdict(list)
    for slot in slots.values():
        name, array = arrays[slot]
        array = array.T if slot.transposed else array
        layers[slot.leaf].append(array.reshape(slot.shape))
        if array.dtype != (dtype := layers[slot.leaf][0].dtype):
            raise Mismatch(f"{name} is {array.dtype}, and other layers are {dtype}")
    leaves, treedef = jax.tree.flatten(like)
    stacks = [  # copies, so that they do not change when PyTorch works in place
        np.stack(layers[n]).reshape(leaf.shape)
        if n in layers
        else np.zeros(leaf.shape, leaf.dtype)
        for n, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, map(jnp.asarray, stacks))


def to_torch(
    params: PyTree, like: StateDict, *, names: Mapping[str, str] | None = None
) -> dict[str, "torch.Tensor"]:
    """Return a `state_dict` with the values of a tree of arrays.

    Args:
      params: its leaves are copied and keep their dtypes.
      like: the `state_dict` of the module that you want to load them into; only its
        names and shapes matter. Names that share one leaf get one tensor.
      names: see `from_torch`.

    Raises:
      Mismatch: see `from_torch`.
    """
    leaves = jax.tree.leaves(params)
    pairs = pair(_shapes(_tensors(like, "`like`")), slots_of(params), names or {})

    @cache
    def tensor(slot: Slot) -> "torch.Tensor":
        array = np.asarray(leaves[slot.leaf])
        array = array if slot.layer is None else array[slot.layer]
        array = array.T if slot.transposed else array
        return _to_tensor(array.reshape(slot.torch_shape), slot.path)

    return {name: tensor(slot) for name, slot in pairs.items()}


def load_torch(path: str | Path) -> Any:
    """Return what `torch.save` or safetensors wrote to a file, whatever its name.

    That is tensors by name, or, from `torch.save`, a tensor, or lists, tuples and
    dictionaries of tensors.

    Raises:
      Damaged: if the file cannot be read, or is no regular file.
      Mismatch: if it holds anything else, such as code, which is never run, or claims
        more than a file of its size may: that is refused before it is unpacked.
    """
    torch, path = _torch(), Path(path)
    try:
        with open_file(path, MAX_BYTES) as file:
            _check_claims(file, path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    try:
        if content[8:9] == b"{":  # after its length, the header of safetensors
            from safetensors.torch import load

            loaded = load(content)
        else:
            file = io.BytesIO(content)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        if found := re.search(_GLOBAL, str(error), re.I):
            raise Mismatch(f"{path} holds {found[1]}: expected only tensors") from error
        raise Damaged(f"{path} does not hold whole tensors") from error
    most = max(len(content), MAX_EXPANDED)

    def check(tensor: "torch.Tensor", name: str) -> "torch.Tensor":
        if tensor.numel() * tensor.element_size() > most:
            raise Mismatch(f"{name} claims {tensor.numel():,} entries, and has fewer")
        return tensor

    return _map(check, loaded, str(path))


def _check_claims(file: IO[bytes], path: Path) -> None:
    pickles = [file] * 4  # that precede the numbers in files of PyTorch before 1.6
    size = os.fstat(file.fileno()).st_size
    try:
        if zipfile.is_zipfile(file):
            zipped = zipfile.ZipFile(file)
            claimed = sum(member.file_size for member in zipped.infolist())
            if claimed > size:
                raise Mismatch(f"{path} has {size:,} bytes and claims {claimed:,}")
            names = [name for name in zipped.namelist() if name.endswith(".pkl")]
            pickles = [io.BytesIO(zipped.read(name)) for name in names]
        else:
            file.seek(0)
            if file.read(2)[:1] != b"\x80":  # no pickle
                return
            file.seek(0)
        for pickled in pickles:
            steps = itertools.islice(pickletools.genops(pickled), MAX_STEPS)
            if sum(1 for _ in steps) == MAX_STEPS:
                raise Mismatch(f"{path} has {MAX_STEPS:,} values that are no tensors")
    except (ValueError, zipfile.BadZipFile, zlib.error):
        return  # PyTorch says what is wrong


def save_torch(path: str | Path, state_dict: StateDict) -> None:
    """Write tensors to a .pt, .pth or .safetensors file, all or nothing.

    Raises:
      Mismatch: if an entry is not a tensor, or, for .safetensors, is sparse or has no
        values.
      Refused: if entries share memory, as those of a shared layer do, and the file is
        .safetensors, which cannot express that.
      ValueError: if it has another suffix.
    """
    torch, path = _torch(), Path(path)
    tensors = _tensors(state_dict, "the state_dict")
    if _is_safetensors(path):
        from safetensors.torch import save

        owners: dict[int, str] = {}
        for name, tensor in tensors.items():
            _plain(tensor, name)
            pointer = tensor.untyped_storage().data_ptr()
            owner = owners.setdefault(pointer, name) if pointer else name
            if owner != name:
                raise Refused(
                    f"{owner} and {name} share memory, which {path} cannot hold: save "
                    "them as .pt, or a clone() of one"
                )
        content = save({name: _plain(t, name) for name, t in tensors.items()})
    else:
        file = io.BytesIO()
        torch.save(state_dict, file)
        content = file.getvalue()
    with atomic.writing(path) as part:
        part.write_bytes(content)


def _torch() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as error:
        message = 'this needs PyTorch: pip install "ch4jax[torch]"'
        raise ImportError(message, name="torch") from error
    return torch


def _is_safetensors(path: Path) -> bool:
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ValueError(f"expected a .pt, .pth or .safetensors file, got {path}")
    return path.suffix == ".safetensors"


def _tensors(state_dict: Any, where: str) -> StateDict:
    torch = _torch()
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise Mismatch(f"{where} is a {kind}: expected tensors by name")
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise Mismatch(f"{where} has the key {name!r}: expected a name")
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise Mismatch(f"{name} in {where} is a {kind}: expected a tensor")
        if torch.nn.parameter.is_lazy(tensor):
            raise Mismatch(f"{name} in {where} has no shape yet: run its module once")
    return state_dict


def _map(f: Callable[[Any, str], Any], value: Any, where: str) -> PyTree:
    """Apply `f` to every tensor in lists, tuples and dictionaries."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise Mismatch(f"{where} has the key {key!r}: expected a name")
        return {key: _map(f, item, f"{key} in {where}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_map(f, item, f"{i} in {where}") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if not isinstance(value, _torch().Tensor):
        raise Mismatch(f"{where} is a {type(value).__name__}: expected a tensor")
    return f(value, where)


def _shapes(tensors: StateDict) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _to_numpy(tensor: "torch.Tensor", name: str) -> np.ndarray:
    torch = _torch()
    dtype = _shared_dtype(str(tensor.dtype).removeprefix("torch."), name)
    if needs_x64(dtype):
        raise Mismatch(f"{name} is {dtype}, which needs jax_enable_x64")
    flat = _plain(tensor, name).cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().view(dtype).reshape(tensor.shape)


def _plain(tensor: "torch.Tensor", name: str) -> "torch.Tensor":
    """Return the tensor with its values in order, conjugated or negated if it is so."""
    if tensor.is_meta:
        raise Mismatch(f"{name} is on the meta device: it has no values")
    if tensor.layout != _torch().strided:
        raise Mismatch(f"{name} is {tensor.layout}: expected a dense tensor")
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _to_tensor(array: np.ndarray, path: str) -> "torch.Tensor":
    torch = _torch()
    dtype = _shared_dtype(array.dtype.name, path)
    tensor = torch.empty(array.shape, dtype=getattr(torch, dtype.name))
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = raw_bytes(array)
    return tensor


def _shared_dtype(dtype: str, name: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise Mismatch(f"{name} is {dtype}: expected a dtype of NumPy's, or bfloat16")
    return _DTYPES[dtype]
