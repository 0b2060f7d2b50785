"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): the whole set or a shipped tenth.

The set is four files in IDX format. Wherever they come from, the unpacked bytes
have to have the SHA-256 that stands here, or they are not used.
"""

import os
import queue
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ch4jax.data import cache_folder, idx
from ch4jax.data.idx import IdxFile
from ch4jax.errors import DataError, NetworkError

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

SOURCE = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
MIRRORS = (
    SOURCE,
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's package
SHIPPED_FOLDER = Path(__file__).parent / "samples" / "fashion_mnist"


FULL = (
    IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

MINI = (
    IdxFile(
        "train-images-idx3-ubyte",
        (6_000, 28, 28),
        "a58210530de795c9ef489fcd338a325d901b8a848a7bfe8f62c1c3cac4749379",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        (6_000,),
        "29720f5598e03e97461381b2ad548218fe41353c2fa69d3aac4db34b2eb422e3",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        (1_000, 28, 28),
        "57f73afaa133a03491445546f1240d9b706c2529b28e82c154af96586bba67b7",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        (1_000,),
        "6ef778c3938e844dc914fb653cd5f10672acf5dd9c2507b9d53df6beaf3e4c0d",
    ),
)


class FashionMNIST(NamedTuple):
    """Grey images and the numbers of their classes (see `CLASSES`).

    Attributes:
      name: `full` (60,000 and 10,000 rows) or `mini` (6,000 and 1,000).
      folder: where the files were.
    """

    train_images: UInt8[Array | np.ndarray, "train 28 28"]
    train_labels: UInt8[Array | np.ndarray, " train"]
    test_images: UInt8[Array | np.ndarray, "test 28 28"]
    test_labels: UInt8[Array | np.ndarray, " test"]
    name: str
    folder: Path

    def on_device(self) -> "FashionMNIST":
        """Return the same set with its arrays, still bytes, on JAX's device."""
        return self._replace(
            **jax.device_put(dict(zip(self._fields[:4], self, strict=False)))
        )


def load(source: str = "auto", *, seconds: float = 4.0) -> FashionMNIST:
    """Read Fashion-MNIST.

    Args:
      source: `mini` takes the shipped tenth; `full` takes the whole set from
        `$CH4JAX_DATA`, the user's cache, Debian's package or the network; `auto`
        does the same and falls back to the shipped tenth; anything else is a
        folder that holds the four files, packed (.gz) or not.
      seconds: how long to wait for a mirror to answer.

    Raises:
      DataError: if the folder, or a file in it, is not what it should be.
      NetworkError: for `full`, if no mirror answers.
    """
    if source == "mini":
        return _read_set("mini", SHIPPED_FOLDER, MINI)
    if source not in ("auto", "full"):
        return _read_set("full", Path(source).expanduser(), FULL)

    cache = cache_folder()
    damaged = ""
    for folder in (cache, cache / "fashion-mnist", SYSTEM_FOLDER):
        if any(idx.find(folder, file) for file in FULL):
            try:
                return _read_set("full", folder, FULL)
            except DataError as error:
                damaged = str(error)
                warnings.warn(f"not used: {damaged}", stacklevel=2)
    try:
        download(cache / "fashion-mnist", seconds=seconds)
    except NetworkError:
        if source == "auto":
            return load("mini")
        if damaged:
            raise DataError(damaged) from None
        raise
    return _read_set("full", cache / "fashion-mnist", FULL)


def to_float(images: UInt8[Array, "*image"]) -> Float[Array, "*image"]:
    """Scale pixels from 0..255 to [0, 1], as torchvision's ToTensor does.

    Call it on the batch: the data set itself stays in bytes, a quarter of the
    memory.
    """
    return images.astype(jnp.result_type(float)) / 255


def download(folder: Path, *, seconds: float = 4.0) -> None:
    """Bring the whole set into `folder`, from the first mirror that delivers it.

    A file gets its name only when its unpacked bytes are right.

    Raises:
      NetworkError: if no mirror does; nothing is left behind.
    """
    for mirror in _answering_mirrors(seconds):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for file in FULL:
                _fetch(mirror, file, folder, seconds)
            return
        except (OSError, DataError) as error:
            warnings.warn(f"mirror {mirror} failed: {error}", stacklevel=2)
    names = ", ".join(f"{file.name}.gz" for file in FULL)
    raise NetworkError(
        f"no mirror of Fashion-MNIST can be reached: put {names} (from {SOURCE}, say) "
        f"into {folder}, or ask for the shipped tenth (mini)"
    )


def _answering_mirrors(seconds: float) -> Iterator[str]:
    """Yield the mirrors that have the set, quickest first, until time is over.

    Looking up a host's name has no time limit of its own, so each mirror is asked
    by a thread that is left behind when it does not return.
    """
    import pooch

    answers: queue.Queue[str | None] = queue.Queue()

    def ask(mirror: str) -> None:
        url = f"{mirror}{FULL[-1].name}.gz"
        try:
            head = pooch.HTTPDownloader(timeout=seconds)
            answers.put(mirror if head(url, None, None, check_only=True) else None)
        except OSError:
            answers.put(None)

    deadline = time.monotonic() + seconds
    for mirror in MIRRORS:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    for _ in MIRRORS:
        try:
            mirror = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return
        if mirror is not None:
            yield mirror


def _fetch(mirror: str, file: IdxFile, folder: Path, seconds: float) -> None:
    import pooch

    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as unchecked:
        part = Path(unchecked) / f"{file.name}.gz"
        get = pooch.HTTPDownloader(timeout=seconds)
        get(f"{mirror}{part.name}", str(part), None)
        idx.read(part, file)
        os.replace(part, folder / part.name)


def _read_set(name: str, folder: Path, files: tuple[IdxFile, ...]) -> FashionMNIST:
    paths = {file: idx.find(folder, file) for file in files}
    missing = [file.name for file, path in paths.items() if path is None]
    if missing:
        found = "has no" if folder.is_dir() else "is not a folder; expected one with"
        raise DataError(f"{folder} {found} {', '.join(missing)} (packed as .gz or not)")
    arrays = [idx.read(path, file) for file, path in paths.items() if path]
    return FashionMNIST(*arrays, name=name, folder=folder)
