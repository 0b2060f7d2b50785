"""Files and folders that are there as a whole or not at all, whoever is killed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ch4jax.errors import Damaged


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend an empty folder that takes the place of `path` when the block ends well.

    A writer that is killed leaves the old folder or the new one, and `find` knows
    where; one that fails leaves the old one.
    """
    part, old = sibling(path, "part"), sibling(path, "old")
    _put_back(old, path)
    for left in (part, old):
        if left.exists():
            shutil.rmtree(left)
    part.mkdir(parents=True)
    try:
        yield part
        for folder, _, names in os.walk(part):
            for name in (*names, "."):
                _sync(os.path.join(folder, name))
        if path.exists():  # a folder cannot be renamed over one that is not empty
            os.rename(path, old)
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        _put_back(old, path)
        raise
    _sync(path.parent)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Lend a name for a file that takes the place of `path` when the block ends well.

    A writer that is killed, or fails, leaves what was there.
    """
    part = sibling(path, "part")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove the folder `path`; a killed process leaves none of it under its name."""
    gone = sibling(path, "gone")
    os.rename(path, gone)
    shutil.rmtree(gone)


def clear(folder: Path) -> None:
    """Remove from `folder` what killed writers and removers left there."""
    for suffix in ("part", "gone"):
        for left in folder.glob(f".*.{suffix}"):
            shutil.rmtree(left)


def find(path: Path) -> Path:
    """Return where `path` is: under another name if its writer was killed just then."""
    old = sibling(path, "old")
    return old if old.exists() and not path.exists() else path


def sibling(path: Path, suffix: str) -> Path:
    """Return the hidden name beside `path` for what it is to be, or was."""
    return path.with_name(f".{path.name}.{suffix}")


def read(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
      Damaged: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from None


def digest(content: bytes) -> str:
    """Return the SHA-256 of the bytes of a file."""
    return hashlib.sha256(content).hexdigest()


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.rename(old, path)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
