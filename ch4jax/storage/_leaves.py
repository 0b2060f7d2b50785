"""One leaf of a tree told in JSON, and made again from that and its bytes."""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.core import Tracer

from ch4jax.errors import Damaged, Refused

_TYPES = (
    *("bool", "float16", "float32", "float64", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
DTYPES = {name: np.dtype(name) for name in _TYPES} | {
    np.dtype(scalar).name: np.dtype(scalar)
    for scalar in vars(ml_dtypes).values()
    if isinstance(scalar, type) and issubclass(scalar, np.generic)
}
# Python's own values as text, and back, to the last bit.
TO_TEXT: dict[type, Callable[[Any], str]] = {
    str: str,
    bool: str,
    int: hex,
    float: lambda x: struct.pack("<d", x).hex(),
    complex: lambda x: struct.pack("<dd", x.real, x.imag).hex(),
}
FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "bool": lambda text: text == "True",
    "int": lambda text: int(text, 16),
    "float": lambda text: struct.unpack("<d", bytes.fromhex(text))[0],
    "complex": lambda text: complex(*struct.unpack("<dd", bytes.fromhex(text))),
}


def describe(leaf: Any, path: str) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return what JSON is to hold of a leaf, and its array if it has one.

    Raises:
      Refused: if it could not be brought back as it is.
    """
    if type(leaf) in TO_TEXT:
        kind = type(leaf)
        return {"path": path, "kind": kind.__name__, "value": TO_TEXT[kind](leaf)}, None
    if isinstance(leaf, Tracer):
        raise Refused(f"{path} is being traced: save outside of jit, vmap and grad")
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise Refused(f"{path} was deleted; was it donated to a function?")
        if not leaf.is_fully_addressable:
            raise Refused(f"{path} is spread over several processes: gather it first")
        kind = "jax"
    elif isinstance(leaf, np.generic):
        kind = "numpy scalar"
    elif type(leaf) is np.ndarray:
        kind = "numpy"
    else:
        raise Refused(
            f"{path} is a {type(leaf).__name__}: expected an array, or a bool, int, "
            "float, complex, str or None"
        )
    record = {"path": path, "kind": kind, "dtype": str(leaf.dtype), "shape": leaf.shape}
    if _is_key(leaf):
        keys: Any = leaf
        impl = jax.random.key_impl(keys)
        if not isinstance(impl, str):
            raise Refused(f"{path} is a key of {impl}, which goes by no name")
        leaf = jax.random.key_data(keys)
        record |= {"kind": "key", "impl": impl, "words": leaf.shape[-1]}
    elif DTYPES.get(leaf.dtype.name) != leaf.dtype:
        raise Refused(f"{path} has the dtype {leaf.dtype}, which JAX does not have")
    array = np.asarray(leaf)
    return {**record, "sha256": digest(array)}, array


def mismatch(record: dict[str, Any], like: Any) -> str | None:
    """Return what keeps the leaf from taking the place of `like`, None if nothing."""
    saved = spec(record)
    if like is not ... and spec(like) != saved:
        return f"{saved} was saved, expected {spec(like)}"
    if _becomes_jax(record, like):
        dtype = DTYPES[record["dtype"]]
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            return f"{saved} takes jax_enable_x64 to be an array of JAX's"
    return None


def spec(leaf: Any) -> str:
    """Return type or dtype and shape, `float32[3,4]`, of a leaf or of its record."""
    if isinstance(leaf, dict):
        if "value" in leaf:
            return leaf["kind"]
        return f"{leaf['dtype']}[{','.join(map(str, leaf['shape']))}]"
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return type(leaf).__name__


def make(record: dict[str, Any], array: np.ndarray | None, like: Any) -> Any:
    """Return the leaf, of the kind and on the devices of `like`.

    Args:
      record: what `describe` returned.
      array: what `describe` returned; its bytes count, not its dtype and shape.
      like: a leaf that `mismatch` has nothing against, or `...` for the saved kind.

    Raises:
      Damaged: if the bytes are not those that were saved.
    """
    if "value" in record:
        return FROM_TEXT[record["kind"]](record["value"])
    if array is None:  # there are no bytes of one without entries
        array = np.empty(0, np.uint8)
    if digest(array) != record["sha256"]:
        raise Damaged(f"the leaf {record['path']} has the wrong SHA-256")
    sharding = None
    if isinstance(like, jax.ShapeDtypeStruct) or getattr(like, "committed", False):
        sharding = like.sharding
    shape = tuple(record["shape"])
    if record["kind"] == "key":
        data = array.view(np.uint32).reshape(*shape, record["words"])
        keys = jax.random.wrap_key_data(jnp.asarray(data), impl=record["impl"])
        return keys if sharding is None else jax.device_put(keys, sharding)
    array = array.view(DTYPES[record["dtype"]]).reshape(shape)
    if _becomes_jax(record, like):
        return jax.device_put(array, sharding)
    kind = record["kind"] if like is ... else type(like)
    return array if kind in ("numpy", np.ndarray) else array[()]


def raw_bytes(array: np.ndarray) -> np.ndarray:
    """Return the bytes of `array` in C order, one axis."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of the bytes of `array` in C order."""
    return hashlib.sha256(raw_bytes(array).data).hexdigest()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _becomes_jax(record: dict[str, Any], like: Any) -> bool:
    if like is ...:
        return record["kind"] == "jax"
    is_jax = isinstance(like, jax.Array | jax.ShapeDtypeStruct)
    return is_jax and not _is_key(like)
