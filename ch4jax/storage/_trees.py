"""One tree in a folder: arrays written by Orbax, and a manifest sealed with a hash.

The folder is written under another name, synced, and renamed, so that it is there
complete or not at all.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage._leaves import NATIVE, digest, raw_bytes
from ch4jax.storage._manifest import SCHEMA, Manifest, decode, encode

MANIFEST = "manifest.json"
ARRAYS = "arrays"


@cache
def _orbax() -> Any:
    import orbax.checkpoint

    # A Checkpointer would rename the folder by itself, before the manifest is in it.
    return orbax.checkpoint.StandardCheckpointHandler()


def _arrays_of(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    # Orbax does not notice damage: it may read a changed file as other numbers. Every
    # hash was right, so whatever it raises here is not the fault of the files.
    return _orbax().restore(folder / ARRAYS) if manifest["files"] else {}


def save(path: str | Path, tree: PyTree) -> None:
    """Save a tree as the folder `path`, and replace a tree that was saved there before.

    Leaves are JAX or NumPy arrays, typed random keys, and Python's bool, int, float,
    complex and str; containers are dictionaries with keys of str or int, lists, tuples,
    None, and any other type that JAX knows as a tree.

    Raises:
      Refused: if a part of the tree could not be restored exactly, which it names, or
        if something at `path` is not a saved tree; nothing was written.
      OSError: if `path` cannot be written; what was there is unchanged.
    """
    path = Path(path).resolve()
    if path.exists() and not (path / MANIFEST).is_file():
        raise Refused(f"{path} exists, and is not a saved tree")
    write(path, tree)


def load(path: str | Path, like: PyTree = None) -> PyTree:
    """Return the tree that was saved as `path`.

    Args:
      path: the same as for `save`.
      like: a tree of the same structure, whose leaves are JAX or NumPy arrays or
        `jax.ShapeDtypeStruct`; each restored leaf has the kind, and is on the devices,
        of the leaf in its place. `...` matches whatever was saved there. None restores
        everything as it was saved; named tuples and other types need an example.

    Raises:
      Damaged: if a bit has changed.
      Mismatch: if the tree is not like `like`; names the leaves.
    """
    return read(Path(path).resolve(), like)[0]


def write(path: Path, tree: PyTree) -> None:
    """Save a tree, and replace whatever is at `path`."""
    manifest, arrays = encode(tree)
    native = {n: _native(array) for n, array in arrays.items() if array.size}
    with atomic.replacing(path) as part:
        if native:
            (part / ARRAYS).mkdir()
            try:
                _orbax().save(part / ARRAYS, native)
                _orbax().finalize(part / ARRAYS)
            except ValueError as error:  # from TensorStore, even for a full disk
                reason = str(error).partition("\n")[0]
                raise OSError(f"{path} cannot be written: {reason}") from error
        manifest["files"] = {
            str(file.relative_to(part)): digest(file.read_bytes())
            for file in sorted(part.rglob("*"))
            if file.is_file()
        }
        (part / MANIFEST).write_text(seal(manifest))


def seal(manifest: Manifest) -> str:
    """Return JSON that holds `manifest` and its SHA-256.

    Raises:
      Refused: if JSON cannot hold it.
    """
    try:
        manifest = json.loads(json.dumps(manifest, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Refused(f"JSON cannot hold this: {error}") from error
    return json.dumps(manifest | {"sha256": _seal_of(manifest)}, indent=1) + "\n"


def read(
    path: Path,
    like: PyTree,
    name: str = MANIFEST,
    arrays_of: Callable[[Path, Manifest], Mapping[str, np.ndarray]] = _arrays_of,
) -> tuple[PyTree, Manifest]:
    """Return the tree in the folder `path`, and its manifest, the file `name`.

    `arrays_of` reads the arrays once every file has the right hash.

    Raises:
      Damaged: if a file has changed; names it.
      Mismatch: if the tree is not like `like`; names the leaves.
    """
    folder = atomic.find(path)
    try:
        manifest = _unseal(folder / name)
        for file, expected in manifest["files"].items():
            if digest(_bytes_of(folder / file)) != expected:
                raise Damaged(f"{file} has the wrong SHA-256")
        arrays = arrays_of(folder, manifest)
        return decode(manifest, arrays, ... if like is None else like), manifest
    except (Damaged, Mismatch) as error:
        raise type(error)(f"{path}: {error}") from error


def _unseal(path: Path) -> Manifest:
    try:
        manifest = json.loads(_bytes_of(path))
    except ValueError as error:
        raise Damaged(f"{path.name} is not JSON: {error}") from error
    intact = isinstance(manifest, dict) and (
        manifest.pop("sha256", None) == _seal_of(manifest)
    )
    if not intact:
        raise Damaged(f"{path.name} has the wrong SHA-256")
    if manifest["schema"] != SCHEMA:
        found = manifest["schema"]
        raise Mismatch(f"{path.name} has schema {found}, expected {SCHEMA}")
    return manifest


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error


def _seal_of(manifest: Manifest) -> str:
    return digest(json.dumps(manifest, sort_keys=True).encode())


def _native(array: np.ndarray) -> np.ndarray:
    # Orbax lacks some of JAX's dtypes, and changes a bool whose byte is not 0 or 1.
    name = array.dtype.name
    return array if name in NATIVE and name != "bool" else raw_bytes(array)
