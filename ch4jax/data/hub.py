"""The book's data hub: files known by name, fetched once, checked by SHA-1 (D2L 5.7).

A file or folder gets its name only when it is whole and sound, so what an
interrupted download or extraction leaves is never taken for the real thing.
"""

import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NamedTuple

from ch4jax.data import cache_folder
from ch4jax.errors import DataError, NetworkError

DATA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/"

# What an archive may grow to: this much, or this many times its own size.
SMALL_BYTES = 100_000_000
LARGEST_RATIO = 100

# Bytes that are damaged, encrypted or packed in some unknown way; names that no file
# system takes; a full disk.
UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)


class HubFile(NamedTuple):
    """Where a file is, and the SHA-1 that it has to have."""

    url: str
    sha1: str


DATA_HUB = {
    "kaggle_house_train": HubFile(
        f"{DATA_URL}kaggle_house_pred_train.csv",
        "585e9cc93e70b39160e7921475f9bcd7d31219ce",
    ),
    "kaggle_house_test": HubFile(
        f"{DATA_URL}kaggle_house_pred_test.csv",
        "fa19780a7b011d9b009e8bff8e99922a8ee2eb90",
    ),
}


def download(
    name: str,
    cache_dir: str | Path | None = None,
    *,
    progressbar: Any = False,
    seconds: float = 10.0,
) -> Path:
    """Return the path of a file of `DATA_HUB`, fetching it if it is not there yet.

    Args:
      name: as in `DATA_HUB`, which may be added to.
      cache_dir: where files are kept; `cache_folder()` if None.
      progressbar: what pooch shows progress on: an object with `total`, `update`,
        `reset` and `close`; True takes tqdm, where it is installed.
      seconds: how long the server may be silent.

    Raises:
      ValueError: if `DATA_HUB` has no such name.
      DataError: if the file in the cache is damaged and cannot be fetched again, if
        what the server sends is not the file, or if the cache cannot be written.
      NetworkError: if the file cannot be fetched; says where to put it by hand.
    """
    if name not in DATA_HUB:
        raise ValueError(f"{name!r} is not in DATA_HUB, which has {sorted(DATA_HUB)}")
    url, sha1 = DATA_HUB[name]
    path = Path(cache_dir or cache_folder()).expanduser() / url.rsplit("/", 1)[-1]
    damage = ""
    if path.is_file():
        found = _sha1(path)
        if found == sha1:
            return path
        damage = f"{path} is damaged: its SHA-1 is {found}, expected {sha1}"
        warnings.warn(f"{damage}; fetching it again", stacklevel=2)
    try:
        _fetch(url, sha1, path, progressbar=progressbar, seconds=seconds)
    except NetworkError as error:
        if damage:
            raise DataError(f"{damage}, and {error}") from None
        raise
    return path


def download_extract(
    name: str, folder: str | None = None, *, cache_dir: str | Path | None = None
) -> Path:
    """Fetch a zip or tar of `DATA_HUB`, unpack it, and return its folder.

    Args:
      name: as in `DATA_HUB`.
      folder: name of the folder beside the archive; the archive's own name without
        its ending if None. A single top folder of this name in the archive is
        that folder, it is not nested in another. What is already there is kept.
      cache_dir: as in `download`.

    Raises:
      ValueError: if `DATA_HUB` has no such name, or `folder` is not a plain name.
      DataError: see `extract` and `download`.
      NetworkError: see `download`.
    """
    archive = download(name, cache_dir)
    folder = folder or archive.name.removesuffix(".gz").rsplit(".", 1)[0]
    if Path(folder).name != folder or folder == "..":
        raise ValueError(f"folder must be a plain name, got {folder!r}")
    target = archive.parent / folder
    if target.is_dir():
        return target
    with _writing(archive.parent) as scratch:
        whole = scratch / "whole"
        whole.mkdir()
        extract(archive, whole)
        alone = [path.name for path in whole.iterdir()] == [folder]
        inner = whole / folder
        os.replace(inner if alone and inner.is_dir() else whole, target)
    return target


def download_all(cache_dir: str | Path | None = None) -> list[Path]:
    """Fetch every file of `DATA_HUB`; see `download`."""
    return [download(name, cache_dir) for name in DATA_HUB]


def extract(archive: Path, folder: Path) -> None:
    """Unpack the files of a zip or tar, packed as gz, bz2 or xz or not, into `folder`.

    Only files and folders are made, whatever their modes say, and only inside
    `folder`.

    Raises:
      DataError: if `archive` is neither, is damaged, holds a link or a path that
        leads out of the folder, or would grow beyond all measure (a bomb). What was
        unpacked until then is left to the caller.
    """
    try:
        allowed = max(SMALL_BYTES, LARGEST_RATIO * archive.stat().st_size)
        for name, size, stream in _members(archive):
            allowed -= size
            if allowed < 0:
                raise DataError(f"{archive} is a bomb: it unpacks to far more bytes")
            path = PureWindowsPath(name)  # which knows both slashes, and drives
            if path.anchor or ".." in path.parts:
                raise DataError(f"{archive} holds {name!r}, which leads out of it")
            target = folder.joinpath(*path.parts)
            if stream is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)
    except UNPACKING_ERRORS as error:
        raise DataError(f"{archive} cannot be unpacked: {_one_line(error)}") from None


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield the name, declared size and stream of each member; folders have none.

    Both libraries read no more of a member than its declared size.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                stream = None if member.is_dir() else file.open(member)
                yield member.filename, member.file_size, stream
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            for member in file:
                if not (member.isreg() or member.isdir()):
                    raise DataError(
                        f"{archive} holds {member.name!r}, a link or a device; "
                        "expected files and folders"
                    )
                stream = None if member.isdir() else file.extractfile(member)
                yield member.name, member.size, stream
    else:
        raise DataError(f"{archive} is neither a sound zip nor a tar file")


def _fetch(
    url: str, sha1: str, path: Path, *, progressbar: Any, seconds: float
) -> None:
    import pooch
    import requests

    by_hand = f"put it at {path} by hand (SHA-1 {sha1})"
    with _writing(path.parent) as scratch:
        part = scratch / path.name
        try:
            get = pooch.HTTPDownloader(progressbar=progressbar, timeout=seconds)
            get(url, str(part), None)
        except requests.RequestException as error:
            if error.response is not None:
                error.response.close()
            raise NetworkError(
                f"{url} cannot be fetched ({_one_line(error)}): {by_hand}"
            ) from None
        if (found := _sha1(part)) != sha1:
            raise DataError(
                f"{url} sent something else: its SHA-1 is {found}, expected {sha1}; "
                + by_hand
            )
        os.replace(part, path)


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Lend a folder inside `folder` that is gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield scratch
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sha1(path: Path) -> str:
    import pooch

    return pooch.file_hash(str(path), alg="sha1")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
