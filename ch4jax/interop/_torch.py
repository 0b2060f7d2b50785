"""Parameters of PyTorch and of NNX to and from Linen's, and other trees of arrays.

`torch_names` says which tensor is which leaf. PyTorch is imported by what needs it.
"""

import io
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.nnx.bridge import variables as bridge
from jaxtyping import PyTree

from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.interop._torch_names import Shape, Slot, pair, slots_of
from ch4jax.storage import atomic
from ch4jax.storage._leaves import DTYPES, raw_bytes

_DTYPES = {  # by a name that both have; PyTorch has others in name alone
    name: dtype
    for name, dtype in DTYPES.items()
    if dtype.isbuiltin == 1 or name == "bfloat16"
}
_GLOBAL = r"unsupported global:?(?: global)? ([\w.]+)"


def from_torch(
    state_dict: Mapping[str, Any],
    like: PyTree,
    *,
    names: Mapping[str, str] | None = None,
) -> PyTree:
    """Return a tree of JAX arrays that holds what a `state_dict` holds.

    Args:
      state_dict: tensors by name; they are copied and keep their dtypes. A shared
        layer has several names for one leaf.
      like: of the form and the shapes that are wanted, as `init` returns it, or
        `jax.eval_shape` of that.
      names: from the start of a name in `state_dict` to the path that stands there
        instead, without its collection: `{"2": "shared", "4": "shared"}`.

    Raises:
      Mismatch: a line for each entry that is missing, or more, or of another shape;
        or a tensor that would not keep its dtype, or two values for one leaf.
    """
    tensors, slots = _tensors(state_dict, "the state_dict"), slots_of(like)
    arrays: dict[Slot, tuple[str, np.ndarray]] = {}
    for name, slot in pair(_shapes(tensors), slots, names or {}).items():
        array = _to_numpy(tensors[name], name)
        first, kept = arrays.setdefault(slot, (name, array))
        if kept is not array and _bits(kept) != _bits(array):
            raise Mismatch(f"{first} and {name} are one {slot.path}, but not equal")
    layers: dict[int, list[np.ndarray]] = defaultdict(list)
    for slot in slots.values():
        name, array = arrays[slot]
        array = array.T if slot.transposed else array
        layers[slot.leaf].append(array.reshape(slot.shape))
        if array.dtype != (dtype := layers[slot.leaf][0].dtype):
            raise Mismatch(f"{name} is {array.dtype}, and other layers are {dtype}")
    leaves, treedef = jax.tree.flatten(like)
    stacks = [  # copies, which do not change where PyTorch works in place
        np.stack(layers[n]).reshape(leaf.shape)
        if n in layers
        else np.zeros(leaf.shape, leaf.dtype)
        for n, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, map(jnp.asarray, stacks))


def to_torch(
    params: PyTree,
    like: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the `state_dict` that holds what a tree of arrays holds.

    Args:
      params: its leaves are copied and keep their dtypes.
      like: the `state_dict` of the module that is to have them; its names and shapes
        count. Names that stand for one leaf get one tensor.
      names: as `from_torch` takes it.

    Raises:
      Mismatch: as `from_torch` does.
    """
    leaves = jax.tree.leaves(params)
    pairs = pair(_shapes(_tensors(like, "`like`")), slots_of(params), names or {})

    @cache
    def tensor(slot: Slot) -> Any:
        array = np.asarray(leaves[slot.leaf])
        array = array if slot.layer is None else array[slot.layer]
        array = array.T if slot.transposed else array
        return _to_tensor(array.reshape(slot.torch_shape), slot.path)

    return {name: tensor(slot) for name, slot in pairs.items()}


def load_torch(path: str | Path) -> Mapping[str, Any]:
    """Return the tensors, by name, of a .pt, .pth or .safetensors file.

    Raises:
      Damaged: if the file cannot be read.
      Mismatch: if it holds something else, such as code, which is never run.
      ValueError: if its suffix is none of these.
    """
    torch, path = _torch(), Path(path)
    safe = _is_safetensors(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from None
    try:
        if safe:
            from safetensors.torch import load

            loaded = load(content)
        else:
            file = io.BytesIO(content)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are damaged raise almost anything
        if found := re.search(_GLOBAL, str(error), re.I):
            raise Mismatch(f"{path} holds {found[1]}: expected only tensors") from None
        raise Damaged(f"{path} does not hold whole tensors by name") from None
    return _tensors(loaded, str(path))


def save_torch(path: str | Path, state_dict: Mapping[str, Any]) -> None:
    """Write tensors to a .pt, .pth or .safetensors file, all or nothing.

    Raises:
      Mismatch: if an entry is not a tensor.
      Refused: if entries share memory, as a shared layer's do, and the file is to be
        .safetensors, which cannot tell.
      ValueError: if the suffix is none of these.
    """
    torch, path = _torch(), Path(path)
    tensors = _tensors(state_dict, "the state_dict")
    if _is_safetensors(path):
        from safetensors.torch import save

        owners: dict[int, str] = {}
        for name, tensor in tensors.items():
            pointer = tensor.untyped_storage().data_ptr()
            owner = owners.setdefault(pointer, name) if pointer else name
            if owner != name:
                raise Refused(
                    f"{owner} and {name} share memory, which {path} cannot hold: save "
                    "them as .pt, or a clone() of one"
                )
        content = save({name: t.contiguous() for name, t in tensors.items()})
    else:
        file = io.BytesIO()
        torch.save(state_dict, file)
        content = file.getvalue()
    with atomic.writing(path) as part:
        part.write_bytes(content)


def linen_to_nnx(module: linen.Module, variables: Mapping[str, Any]) -> nnx.Module:
    """Return an NNX module that computes what the Linen module does.

    Its `params` are `nnx.Param`; any other collection is a Variable of its own type,
    which `nnx.grad` and optimisers leave alone. An NNX module with the same names, not
    a wrapper, takes the values from `nnx.update(its, variables["params"])`.
    """
    wrapped = nnx.bridge.ToNNX(module)
    for name, value in bridge.linen_vars_to_nnx_attrs(variables).items():
        setattr(wrapped, name, value)
    return wrapped


def nnx_to_linen(module: nnx.Module) -> dict[str, Any]:
    """Return the variables of an NNX module by collection, as Linen has them."""
    state = nnx.state(module, nnx.Not(nnx.RngState))
    return bridge.nnx_attrs_to_linen_vars(dict(state))


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError(
            'this takes PyTorch: pip install "ch4jax[torch]"', name="torch"
        ) from None
    return torch


def _is_safetensors(path: Path) -> bool:
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ValueError(f"expected a .pt, .pth or .safetensors file, got {path}")
    return path.suffix == ".safetensors"


def _tensors(state_dict: Any, where: str) -> Mapping[str, Any]:
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


def _shapes(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _to_numpy(tensor: Any, name: str) -> np.ndarray:
    torch = _torch()
    dtype = _exchanged(str(tensor.dtype).removeprefix("torch."), name)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise Mismatch(f"{name} is {dtype}, which takes jax_enable_x64 to be kept")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(dtype).reshape(tensor.shape)


def _to_tensor(array: np.ndarray, path: str) -> Any:
    torch = _torch()
    dtype = _exchanged(array.dtype.name, path)
    tensor = torch.empty(array.shape, dtype=getattr(torch, dtype.name))
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = raw_bytes(array)
    return tensor


def _exchanged(dtype: str, name: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise Mismatch(f"{name} is {dtype}: expected a dtype of NumPy's, or bfloat16")
    return _DTYPES[dtype]


def _bits(array: np.ndarray) -> tuple[np.dtype, bytes]:
    return array.dtype, array.tobytes()
