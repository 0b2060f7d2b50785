"""The book's data hub: files by name, downloaded once, checked by SHA-1 (D2L 5.7).

A file or folder appears under its name only when it is complete and its hash is
right, so you never read what an interrupted download or extraction leaves behind.
"""

import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ch4jax.data import cache_folder
from ch4jax.data._download import fetch
from ch4jax.errors import DataError, NetworkError

# What decompressing raises; of these RuntimeError is for a password or a method.
UNSOUND = (EOFError, RuntimeError, lzma.LZMAError, zlib.error)
DATA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/"


class HubFile(NamedTuple):
    """Where a file is, and the SHA-1 that it must have."""

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
    name: str, cache_dir: str | Path | None = None, *, seconds: float = 10.0
) -> Path:
    """Return the path of a file of `DATA_HUB`, downloading it if necessary.

    Its folder belongs to the entry and its hash. A file in the cache whose SHA-1 is
    wrong is downloaded again. The book keeps its files in one folder: a file of that
    name in `cache_dir` itself is used if its SHA-1 is right.

    Args:
      name: a key of `DATA_HUB`, to which you may add.
      cache_dir: where the folders are; `cache_folder()` if None.
      seconds: how long the server may be silent.

    Raises:
      ValueError: if `DATA_HUB` has no such name.
      DataError: if the server sends a file with another SHA-1, or if the file cannot
        be written.
      NetworkError: if the download fails; says where to put the file by hand.
    """
    import pooch
    import requests

    if name not in DATA_HUB:
        raise ValueError(f"{name!r} is not in DATA_HUB, which has {sorted(DATA_HUB)}")
    url, sha1 = DATA_HUB[name]
    path = _place(name, cache_dir) / (urlsplit(url).path.rsplit("/", 1)[-1] or "file")
    books = path.parent.parent / path.name
    if books.is_file() and pooch.file_hash(str(books), "sha1") == sha1:
        return books
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file")
    by_hand = f"put the file with SHA-1 {sha1} at {path} by hand"
    pooch.get_logger().setLevel("WARNING")  # `fetch` logs a line of its own

    get: Any = partial(fetch, folder=path.parent, seconds=seconds)
    try:
        pooch.retrieve(url, f"sha1:{sha1}", path.name, path.parent, downloader=get)
    except requests.RequestException as error:
        if error.response is not None:
            error.response.close()
        raise NetworkError(f"{url} cannot be fetched ({error}): {by_hand}") from error
    except ValueError as error:
        raise DataError(f"{url} sent another file ({error}): {by_hand}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    return path


def download_extract(
    name: str, folder: str | None = None, *, cache_dir: str | Path | None = None
) -> Path:
    """Download a zip or tar file of `DATA_HUB`, unpack it once, and return its folder.

    Args:
      name: as in `download`.
      folder: inside the archive, as in `VOCdevkit/VOC2012`. None: the folder with the
        name of the archive without its ending if there is one, else all of it.
      cache_dir: as in `download`.

    Raises:
      ValueError: see `download`.
      DataError: if the archive is neither zip nor tar, or is damaged, or is a tar with
        a member that would end up outside the folder, or lacks the folder inside it.
        See also `download`.
      NetworkError: see `download`.
    """
    archive = download(name, cache_dir)
    target = _place(name, cache_dir) / "unpacked"
    if not target.is_dir():
        _unpack(archive, target)
    stem = archive.name.removesuffix(".gz").rsplit(".", 1)[0]
    if (found := target / (folder or stem)).is_dir():
        return found
    if folder:
        raise DataError(f"{archive} has no folder {folder}")
    return target


def _place(name: str, cache_dir: str | Path | None) -> Path:
    """Return the folder of an entry and its hash."""
    _, sha1 = DATA_HUB[name]  # the book's entries are plain tuples
    folder = re.sub(r"[^\w.-]+", "-", f"{name}-{sha1[:8]}")
    return Path(cache_dir or cache_folder()).expanduser() / folder


def _unpack(archive: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as part:
            everything = Path(part) / "everything"
            if tarfile.is_tarfile(archive):
                with tarfile.open(archive) as tar:
                    tar.extractall(everything, filter="data")
            else:
                with zipfile.ZipFile(archive) as zipped:
                    zipped.extractall(everything)
            everything.mkdir(exist_ok=True)
            try:
                everything.rename(target)
            except OSError:
                if not target.is_dir():  # another process was faster
                    raise
    except (tarfile.TarError, zipfile.BadZipFile, *UNSOUND) as error:
        raise DataError(f"{archive} is not a sound tar or zip: {error}") from error
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}") from error


def download_all(cache_dir: str | Path | None = None) -> list[Path]:
    """Download every file of `DATA_HUB`; see `download`."""
    return [download(name, cache_dir) for name in DATA_HUB]
