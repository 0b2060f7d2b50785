"""Files and folders that are replaced atomically: a killed writer leaves no half."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces the folder `path` if the block succeeds.

    A writer that fails leaves the old folder. One that is killed leaves the old folder
    or the new one, and `find` knows where.
    """
    part, old = _sibling(path, "part"), _sibling(path, "old")
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
    """Yield a name for a file, which replaces the file `path` if the block succeeds.

    A writer that fails, or is killed, leaves what was there.
    """
    part = _sibling(path, "part")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove the folder `path`; a killed process leaves none of it under its name."""
    gone = _sibling(path, "gone")
    os.rename(path, gone)
    shutil.rmtree(gone)


def clear(folder: Path) -> None:
    """Remove from `folder` what killed processes left in the middle of their work."""
    for suffix in ("part", "gone"):
        for left in folder.glob(f".*.{suffix}"):
            shutil.rmtree(left)


def find(path: Path) -> Path:
    """Return the folder `path`, or its old version if the rename was interrupted."""
    old = _sibling(path, "old")
    return old if old.exists() and not path.exists() else path


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.rename(old, path)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
