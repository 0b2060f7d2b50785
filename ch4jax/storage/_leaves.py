"""A leaf of a tree as a JSON record and its bytes, and back."""

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.core import Tracer

from ch4jax.errors import Damaged, Mismatch, Refused

# A record has `path` and `kind`. A Python value adds its `value` as text; an array adds
# `dtype`, `shape` and `sha256`, a weakly typed one `weak`; random keys add `impl` and
# `words` (uint32s a key) too.
Record = dict[str, Any]

NATIVE = (  # NumPy's own
    *("bool", "float16", "float32", "float64", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
DTYPES = {name: np.dtype(name) for name in NATIVE} | {
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


def encode(leaf: Any, path: str) -> tuple[Record, np.ndarray | None]:
    """Return the record of a leaf, and its array if it has one.

    Raises:
      Refused: if the leaf could not be restored exactly.
    """
    if type(leaf) in TO_TEXT:
        kind = type(leaf)
        if kind is str and not survives(leaf):
            raise Refused(f"{path} has a surrogate pair, which JSON would join")
        return {"path": path, "kind": kind.__name__, "value": TO_TEXT[kind](leaf)}, None
    kind = _kind(leaf)
    if kind is None:
        raise Refused(
            f"{path} is a {type(leaf).__name__}: expected an array, or a bool, int, "
            "float, complex, str or None"
        )
    if isinstance(leaf, Tracer):
        raise Refused(f"{path} is being traced: save outside of jit, vmap and grad")
    if kind == "jax" and leaf.is_deleted():
        raise Refused(f"{path} was deleted; was it donated to a function?")
    if kind == "jax" and not leaf.is_fully_addressable:
        raise Refused(f"{path} is spread over several processes: gather it first")
    record = {"path": path, "kind": kind, "dtype": str(leaf.dtype), "shape": leaf.shape}
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(leaf)
        if not isinstance(impl, str):
            raise Refused(f"{path} is a key of {impl}, an implementation without name")
        leaf = jax.random.key_data(leaf)
        record |= {"kind": "key", "impl": impl, "words": leaf.shape[-1]}
    elif DTYPES.get(leaf.dtype.name) != leaf.dtype:
        raise Refused(f"{path} has the dtype {leaf.dtype}, which JAX does not have")
    if getattr(leaf, "weak_type", False):
        record["weak"] = True
    array = np.asarray(leaf)
    return {**record, "sha256": digest(raw_bytes(array).data)}, array


def decode(record: Record, array: np.ndarray | None, like: Any) -> Any:
    """Return the leaf that `encode` described, from the bytes of `array`.

    It has the kind and the devices of `like`, a leaf with the same `spec`, or those
    that were saved if `like` is `...`.

    Raises:
      Damaged: if the bytes are not those that were saved.
      Mismatch: if JAX, as it is configured now, would narrow the dtype.
    """
    if "value" in record:
        return FROM_TEXT[record["kind"]](record["value"])
    if array is None:  # an array without entries has no bytes on disk
        array = np.empty(0, np.uint8)
    if digest(raw_bytes(array).data) != record["sha256"]:
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
    kind = record["kind"] if like is ... else _kind(like)
    if kind == "jax" or isinstance(like, jax.ShapeDtypeStruct):
        if needs_x64(array.dtype):
            raise Mismatch(f"{record['path']}: {spec(record)} needs jax_enable_x64")
        placed = jax.device_put(array, sharding)
        if "weak" not in record:
            return placed
        # Only the primitive makes a weak type of any shape and dtype.
        return jax.lax.convert_element_type_p.bind(
            placed, new_dtype=array.dtype, weak_type=True, sharding=placed.sharding
        )
    return array if kind == "numpy" else array[()]


def spec(leaf: Any) -> str:
    """Return type or dtype and shape, `float32[3,4]`, of a leaf or of its record."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        leaf = {"dtype": leaf.dtype, "shape": leaf.shape}
    if not isinstance(leaf, dict):
        return type(leaf).__name__
    if "value" in leaf:
        return leaf["kind"]
    return f"{leaf['dtype']}[{','.join(map(str, leaf['shape']))}]"


def survives(text: str | int) -> bool:
    """Return whether JSON brings `text` back: it joins a pair of surrogates."""
    return json.loads(json.dumps(text)) == text


def needs_x64(dtype: np.dtype) -> bool:
    """Return whether JAX, as it is configured now, would narrow arrays of `dtype`."""
    return jax.dtypes.canonicalize_dtype(dtype) != dtype


def raw_bytes(array: np.ndarray) -> np.ndarray:
    """Return the bytes of `array` in C order, as one axis."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def _kind(leaf: Any) -> str | None:
    if isinstance(leaf, jax.Array):
        return "jax"
    if isinstance(leaf, np.generic):
        return "numpy scalar"
    return "numpy" if type(leaf) is np.ndarray else None
