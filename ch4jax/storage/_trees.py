"""One tree in a folder: arrays written by Orbax, and a manifest sealed with a hash.

The folder is written under another name, synced, and renamed, so that it is there
complete or not at all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.data.files import open_file
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage._leaves import NATIVE, digest, raw_bytes
from ch4jax.storage._manifest import SCHEMA, Manifest, decode, encode

ORBAX_HOLDS = {*NATIVE, "bfloat16", "float8_e4m3fn", "float8_e5m2"}
TREE = MANIFEST, ARRAYS = "manifest.json", "arrays"


@cache
def _orbax() -> tuple[Any, Any]:
    import orbax.checkpoint

    # A Checkpointer would wait for the other processes of a run, which do not save.
    handler = orbax.checkpoint.StandardCheckpointHandler()
    return handler, orbax.checkpoint.args.StandardSave


def _arrays_of(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    # Orbax does not notice damage: it may read a changed file as other numbers. Every
    # hash was right, so what it raises here is not the fault of the files, if they are
    # still there.
    if not manifest["files"]:
        return {}
    try:
        tree = _orbax()[0].restore(folder / ARRAYS)
    except Exception as error:
        if folder.exists():
            raise
        raise Damaged("it was removed while it was read") from error
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    return {name(path): array for path, array in pairs}


def save(path: str | Path, tree: PyTree) -> None:
    """Save a tree as the folder `path`, and replace a tree that was saved there before.

    Leaves are JAX or NumPy arrays, typed random keys, and Python's bool, int, float,
    complex and str; containers are dictionaries with keys of str or int, lists, tuples,
    None, and any other type that JAX knows as a tree.

    Raises:
      Refused: if a part of the tree could not be restored exactly, which it names, or
        if something at `path` was not saved by `save`; nothing was written.
      ValueError: if `path` is empty or a URL.
      OSError: if `path` cannot be written; what was there is unchanged, unless the
        message says that the new tree is in place.
    """
    write(atomic.resolve(path), tree)


def load(path: str | Path, like: PyTree = None) -> PyTree:
    """Return the tree that was saved as `path`.

    Args:
      path: the same as for `save`; `~` is your home.
      like: a tree of the same structure, whose leaves are JAX or NumPy arrays or
        `jax.ShapeDtypeStruct`; each restored leaf has the kind, and is on the devices,
        of the leaf of the same name. `...` matches whatever was saved there, and a
        number an array of one such number. What is at `storage.SKIP` is not restored.
        None restores everything as it was saved; named tuples and other types need an
        example.

    Raises:
      Damaged: if a bit has changed.
      Mismatch: if the tree is not like `like`; names the leaves.
    """
    return read(atomic.resolve(path), like)[0]


def write(path: Path, tree: PyTree, **about: int) -> None:
    """Save a tree, as `save` does, and what the manifest is to hold `about` it."""
    manifest, _, place = encode(tree)
    manifest |= about
    native = jax.tree.map(_native, place)
    begun = seal(manifest)
    with atomic.replacing(path, TREE) as part:
        (part / MANIFEST).write_text(begun)
        if jax.tree.leaves(native):
            (part / ARRAYS).mkdir()
            try:
                mark = {"ch4jax": manifest["versions"]["ch4jax"]}
                handler, arguments = _orbax()
                args = arguments(native, custom_metadata=mark)
                handler.save(part / ARRAYS, args=args)
                handler.finalize(part / ARRAYS)
            except ValueError as error:  # from TensorStore, even for a full disk
                reason = str(error).partition("\n")[0]
                raise OSError(f"{path} cannot be written: {reason}") from error
        manifest["files"] = {
            str(file.relative_to(part)): digest(file.read_bytes())
            for file in sorted(part.rglob("*"))
            if file.is_file() and file != part / MANIFEST
        }
        with atomic.writing(part / MANIFEST) as complete:
            complete.write_text(seal(manifest))


def seal(manifest: Manifest) -> str:
    """Return JSON that holds `manifest` and its SHA-256.

    Raises:
      Refused: if JSON cannot hold it.
    """
    try:
        back = json.loads(json.dumps(manifest, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"JSON cannot hold this: {error}") from error
    if back != _lists(manifest):
        raise Refused(
            "JSON cannot hold this: keys must be str, text without surrogates"
        )
    return json.dumps(back | {"sha256": _seal_of(back)}, indent=1) + "\n"


def read(
    path: Path,
    like: PyTree,
    names: Sequence[str] = TREE,
    arrays_of: Callable[[Path, Manifest], Mapping[str, np.ndarray]] = _arrays_of,
) -> tuple[PyTree, Manifest]:
    """Return the tree in the folder `path`, and its manifest, the first of `names`.

    `arrays_of` reads the arrays once every file has the right hash.

    Raises:
      Damaged: if a file has changed; names it.
      Mismatch: if the tree is not like `like`; names the leaves.
    """
    folder = atomic.find(path, names)
    try:
        manifest = _unseal(folder / names[0])
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
    if manifest["schema"] not in (1, SCHEMA):
        found = manifest["schema"]
        raise Mismatch(f"{path.name} has schema {found}, expected 1 or {SCHEMA}")
    return manifest


def _bytes_of(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error


def _seal_of(manifest: Manifest) -> str:
    return digest(json.dumps(manifest, sort_keys=True).encode())


def _native(array: np.ndarray) -> np.ndarray | None:
    # Orbax lacks arrays without entries, of more than 32 axes, and of some of JAX's
    # dtypes, and refuses a bool whose byte is not 0 or 1.
    if not array.size:
        return None
    content, name = raw_bytes(array), array.dtype.name
    odd = array.ndim > 32 or (name == "bool" and content.max() > 1)
    return array if name in ORBAX_HOLDS and not odd else content


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [*map(_lists, value)] if isinstance(value, list | tuple) else value
