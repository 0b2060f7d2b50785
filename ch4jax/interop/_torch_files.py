"""Files of PyTorch and safetensors, read without running code."""

import io
import itertools
import json
import math
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors

import ch4jax.storage.atomic as atomic
from ch4jax.data.files import open_file
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.interop._torch import (
    StateDict,
    import_torch,
    is_tensor,
    map_tensors,
    plain_tensor,
    tensors_of,
    to_tensor,
)
from ch4jax.storage._leaves import DTYPES, NATIVE

_DAMAGE = (RuntimeError, EOFError, IndexError, pickle.UnpicklingError)
MAX_BYTES = 2**36  # of a file
MAX_EXPANDED = 2**30  # bytes of a tensor that repeats the few that are in the file
MAX_STEPS = 2**20  # of unpickling; a tensor takes about 30
_SAFETENSORS = {"BOOL": DTYPES["bool"], "BF16": DTYPES["bfloat16"]} | {
    f"{DTYPES[name].kind.upper()}{8 * DTYPES[name].itemsize}": DTYPES[name]
    for name in NATIVE
}
_GLOBAL = r"unsupported global:?(?: global)? ([\w.]+)"


def load_torch(path: str | Path, entry: str | None = None) -> Any:
    """Return what `torch.save` or safetensors wrote to a file, whatever its name.

    That is tensors by name, or, from `torch.save`, a tensor, or lists, tuples and
    dictionaries of tensors. Those of safetensors come as NumPy's arrays and need no
    PyTorch; a name that stands for another in its metadata is one of them.

    Args:
      path: of the file.
      entry: of a training checkpoint, the one with the weights, such as `state_dict`.

    Raises:
      Damaged: if the file cannot be read, is no regular file, or has changed since
        `torch.save` wrote its checksums; safetensors has none.
      Mismatch: if it holds anything else, such as code, which is never run, or claims
        more than a file of its size may: that is refused before it is unpacked.
      ValueError: if `path` is a URL, is empty, or starts with the `~` of nobody.
    """
    path = atomic.resolve(path)
    try:
        with open_file(path, MAX_BYTES) as file:
            _check_claims(file, path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    try:
        if content[8:9] == b"{":  # after its length, the header of safetensors
            loaded = _safetensors(content)
        else:
            loaded = import_torch().load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        if found := re.search(_GLOBAL, str(error), re.I):
            raise Mismatch(f"{path} holds {found[1]}: expected only tensors") from error
        raise Damaged(f"{path} does not hold whole tensors") from error
    most = max(len(content), MAX_EXPANDED)

    def check(tensor: Any, name: str) -> Any:
        # A sparse tensor has no `nbytes`.
        if (claimed := math.prod(tensor.shape) * tensor.dtype.itemsize) > most:
            raise Mismatch(f"{name} claims {claimed:,} bytes, and has fewer")
        return tensor

    entries = loaded if isinstance(loaded, Mapping) else {}
    if entry is not None:
        if entry not in entries:
            raise Mismatch(f"{path} has no entry {entry!r}: it has {[*entries]}")
        return map_tensors(check, entries[entry], f"{entry} in {path}")
    try:
        return map_tensors(check, loaded, str(path))
    except Mismatch as error:
        several = [name for name, value in entries.items() if isinstance(value, dict)]
        hint = f"; or name the entry to load, of {several}" if several else ""
        raise Mismatch(f"{error}{hint}") from error


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in safetensors.deserialize(content):
        dtype = _SAFETENSORS.get(tensor["dtype"])
        if dtype is None:
            raise Mismatch(f"{name} is {tensor['dtype']}, which PyTorch lacks")
        array = np.frombuffer(bytearray(tensor["data"]), dtype)
        tensors[name] = array.reshape(tensor["shape"])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, other in header.get("__metadata__", {}).items():
        if other in tensors and name not in tensors:  # a tied tensor
            tensors[name] = tensors[other]
    return tensors


def _check_claims(file: IO[bytes], path: Path) -> None:
    pickles = [file] * 4  # that precede the numbers in files of PyTorch before 1.6
    size = os.fstat(file.fileno()).st_size
    try:
        if zipfile.is_zipfile(file):
            zipped = zipfile.ZipFile(file)
            claimed = sum(member.file_size for member in zipped.infolist())
            if claimed > size:
                raise Mismatch(f"{path} has {size:,} bytes and claims {claimed:,}")
            if damaged := zipped.testzip():  # PyTorch does not look
                raise Damaged(f"{path}: {damaged} has the wrong CRC-32")
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
    except (RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        return  # PyTorch says what is wrong


def save_torch(path: str | Path, state_dict: StateDict) -> None:
    """Write tensors as safetensors if `path` ends so, else as PyTorch; all or nothing.

    Raises:
      Mismatch: if an entry is not a tensor, or, for .safetensors, is sparse or has no
        values.
      Refused: if entries share memory, as those of a shared layer do, or one is called
        `__metadata__`, and the file is .safetensors, which cannot express that.
      ValueError: as `load_torch` does.
    """
    kind, path = Path(path).suffix, atomic.resolve(path)
    torch = import_torch()
    tensors = {
        name: tensor if is_tensor(tensor) else to_tensor(tensor, name)
        for name, tensor in tensors_of(state_dict, "the state_dict").items()
    }
    if kind == ".safetensors":
        from safetensors.torch import save

        if "__metadata__" in tensors:
            raise Refused("__metadata__ is a name that safetensors reserves")
        owners: dict[int, str] = {}
        for name, tensor in tensors.items():
            plain_tensor(tensor, name)
            pointer = tensor.untyped_storage().data_ptr()
            owner = owners.setdefault(pointer, name) if pointer else name
            if owner != name:
                raise Refused(
                    f"{owner} and {name} share memory, which {path} cannot hold: save "
                    "them as .pt, or a clone() of one"
                )
        content = save({name: plain_tensor(t, name) for name, t in tensors.items()})
    else:
        file = io.BytesIO()
        torch.save(tensors, file)
        content = file.getvalue()
    with atomic.writing(path) as part:
        part.write_bytes(content)
