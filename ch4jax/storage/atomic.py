"""Files and folders that are replaced atomically: a killed writer leaves no half.

What ch4jax did not write is never replaced or removed. A folder that it wrote holds a
manifest, which is written first and removed last and begins with `MARK`. The functions
for folders take `names`, all that such a folder may hold: the manifest, the arrays.
"""

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ch4jax.data.files import open_file
from ch4jax.errors import Refused

MARK = re.compile(rb'\A\{\s*"schema": \d+,\s*"versions": \{\s*"ch4jax": "')
ORBAX_MARK = re.compile(rb'"custom_metadata": \{"ch4jax": "')


def resolve(path: str | Path) -> Path:
    """Return an absolute path to a local file or folder, with `~` expanded.

    Raises:
      ValueError: if `path` is empty, is a URL, or starts with the `~` of nobody.
    """
    given = os.fspath(path)
    # In a Path, two slashes have become one; `C:` is a drive.
    if not given or "://" in given or re.match(r"[A-Za-z][\w+.-]+:/", given):
        raise ValueError(f"path must name a local file or folder, got {given!r}")
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise ValueError(f"path {given!r} cannot be resolved: {error}") from error


@contextmanager
def replacing(path: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder, which replaces the folder `path` if the block succeeds.

    A writer that fails leaves the old folder. One that is killed leaves the old folder
    or the new one, and `find` knows where.

    Raises:
      Refused: if ch4jax did not write what is at `path`.
      OSError: if the folder cannot be written, or, which the message says, if it is in
        place and what remained to be done failed.
    """
    if os.path.lexists(path) and not is_ours(path, names):
        raise Refused(f"{path} exists, and ch4jax did not write it, or not all of it")
    _put_back(path, names)
    part, old = (_claim(path, suffix, names) for suffix in ("part", "old"))
    part.mkdir(parents=True)
    try:
        yield part
        for folder, _, files in os.walk(part):
            for name in (*files, "."):
                _sync(os.path.join(folder, name))
        if path.exists():  # a folder cannot be renamed over one that is not empty
            os.rename(path, old)
        os.rename(part, path)
    except BaseException as error:
        with suppress(OSError):
            _discard(part, names)
        _put_back(path, names)
        _name(error, path)
        raise
    try:
        _sync(path.parent)
        if old.exists():
            _discard(old, names)
    except OSError as error:
        raise OSError(f"{path} is in place and complete, but then: {error}") from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a name for a file, which replaces the file `path` if the block succeeds.

    A writer that fails, or is killed, leaves what was there.
    """
    part = _claim(path, "part")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        part.unlink(missing_ok=True)


def remove(path: Path, names: Sequence[str]) -> None:
    """Remove the folder `path`; a killed process leaves none of it under its name.

    Raises:
      Refused: if ch4jax did not write it, or not all of it.
    """
    if not is_ours(path, names):
        raise Refused(f"{path} holds what ch4jax did not write: move that away")
    gone = _claim(path, "gone", names)
    os.rename(path, gone)
    _discard(gone, names)


def clear(folder: Path, names: Sequence[str]) -> None:
    """Remove from `folder` the steps that killed writers left half written or removed.

    Only what is provably theirs: what has the mark, or holds nothing yet.
    """
    for left in folder.glob(".*"):
        of_a_step = re.fullmatch(r"\.[0-9]{8,}(\.\d+)?\.(part|gone)", left.name)
        if of_a_step and _is_left(left, names):
            _discard(left, names)


def find(path: Path, names: Sequence[str]) -> Path:
    """Return the folder `path`, or its old version if the rename was interrupted."""
    if not os.path.lexists(path):
        for old in itertools.takewhile(os.path.lexists, _siblings(path, "old")):
            if is_ours(old, names):
                return old
    return path


def is_marked(folder: Path, names: Sequence[str]) -> bool:
    """Return whether ch4jax wrote `folder`: the mark is in its manifest, or in Orbax's.

    One of the two survives where the other is damaged.
    """
    for file, mark in ((names[0], MARK), (f"{names[1]}/_METADATA", ORBAX_MARK)):
        with suppress(OSError), open_file(folder / file) as found:
            if mark.search(found.read()):
                return True
    return False


def is_ours(folder: Path, names: Sequence[str]) -> bool:
    """Return whether `folder` has the mark, and nothing that was put into it later."""
    expected = {*names, f".{names[0]}.part"}
    return (
        not folder.is_symlink()
        and is_marked(folder, names)
        and set(os.listdir(folder)) <= expected
    )


def _is_left(folder: Path, names: Sequence[str]) -> bool:
    """Return whether `folder` is ours, or holds nothing: just begun, almost removed."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return is_ours(folder, names) or all(
        entry.name == names[0] and not entry.stat().st_size
        for entry in folder.iterdir()
    )


def _discard(folder: Path, names: Sequence[str]) -> None:
    for entry in folder.iterdir():
        if entry.name != names[0]:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (folder / names[0]).unlink(missing_ok=True)
    folder.rmdir()


def _siblings(path: Path, suffix: str) -> Iterator[Path]:
    yield path.with_name(f".{path.name}.{suffix}")
    for n in itertools.count(1):
        yield path.with_name(f".{path.name}.{n}.{suffix}")


def _claim(path: Path, suffix: str, names: Sequence[str] = ()) -> Path:
    """Return a free name beside `path`, once what a killed writer left is removed."""
    for sibling in _siblings(path, suffix):
        if names and _is_left(sibling, names):
            _discard(sibling, names)
        if not os.path.lexists(sibling):
            return sibling
    raise AssertionError("numbers do not end")


def _put_back(path: Path, names: Sequence[str]) -> None:
    if (old := find(path, names)) != path:
        os.rename(old, path)


def _name(error: BaseException, path: Path) -> None:
    """Let the message of a write that failed, as on a full disk, name a file."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = str(path)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
