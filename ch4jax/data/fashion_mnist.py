"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): the whole set or a shipped tenth.

The set is four files in IDX format. Wherever they come from, the SHA-256 of the
unpacked bytes must be the one below, or `load` does not use them.
"""

import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ch4jax.data import cache_folder, idx
from ch4jax.data._download import fetch
from ch4jax.data.idx import IdxFile
from ch4jax.errors import DataError, NetworkError

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

SOURCE = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
MIRRORS = (
    SOURCE,
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's package
SHIPPED_FOLDER = Path(__file__).parent / "samples" / "fashion_mnist"


def _files(num_train: int, num_test: int, *sha256: str) -> tuple[IdxFile, ...]:
    """Describe training images and labels, then test images and labels."""
    train_images, train_labels, test_images, test_labels = sha256
    return (
        IdxFile("train-images-idx3-ubyte", (num_train, 28, 28), train_images),
        IdxFile("train-labels-idx1-ubyte", (num_train,), train_labels),
        IdxFile("t10k-images-idx3-ubyte", (num_test, 28, 28), test_images),
        IdxFile("t10k-labels-idx1-ubyte", (num_test,), test_labels),
    )


FULL = _files(
    60_000,
    10_000,
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
MINI = _files(
    6_000,
    1_000,
    "a58210530de795c9ef489fcd338a325d901b8a848a7bfe8f62c1c3cac4749379",
    "29720f5598e03e97461381b2ad548218fe41353c2fa69d3aac4db34b2eb422e3",
    "57f73afaa133a03491445546f1240d9b706c2529b28e82c154af96586bba67b7",
    "6ef778c3938e844dc914fb653cd5f10672acf5dd9c2507b9d53df6beaf3e4c0d",
)


class FashionMNIST(NamedTuple):
    """Grey images and the numbers of their classes (see `CLASSES`).

    Attributes:
      name: `full` (60,000 and 10,000 rows) or `mini` (6,000 and 1,000).
      folder: that the files were read from.
    """

    train_images: UInt8[Array | np.ndarray, "train 28 28"]
    train_labels: UInt8[Array | np.ndarray, " train"]
    test_images: UInt8[Array | np.ndarray, "test 28 28"]
    test_labels: UInt8[Array | np.ndarray, " test"]
    name: str
    folder: Path

    @property
    def train(self) -> tuple[UInt8[Array, "train 28 28"], UInt8[Array, " train"]]:
        """Training images and labels, still bytes, on JAX's device."""
        return jnp.asarray(self.train_images), jnp.asarray(self.train_labels)

    @property
    def test(self) -> tuple[UInt8[Array, "test 28 28"], UInt8[Array, " test"]]:
        """Test images and labels, still bytes, on JAX's device."""
        return jnp.asarray(self.test_images), jnp.asarray(self.test_labels)


def load(source: str = "auto", *, seconds: float = 4.0) -> FashionMNIST:
    """Read Fashion-MNIST.

    Args:
      source: `mini` is the shipped tenth. `full` is the whole set from
        `$CH4JAX_DATA`, the user's cache or Debian's package, and is downloaded if
        it is in none of them. `auto` is the whole set if it is in one of them, and
        the shipped tenth otherwise. Anything else is a folder that holds the four
        files, packed (.gz) or not.
      seconds: how long a mirror may be silent.

    Raises:
      DataError: if the folder, or a file in it, is not what it should be. For `auto`
        and `full` this is a warning, and the next place is tried.
      NetworkError: for `full`, if no mirror delivers the set.
    """
    if source == "mini":
        return _read_set("mini", SHIPPED_FOLDER, MINI)
    if source not in ("auto", "full"):
        return _read_set("full", Path(source).expanduser(), FULL)

    cache = cache_folder()
    damage = None
    for folder in (cache, cache / "fashion-mnist", SYSTEM_FOLDER):
        if any(idx.find(folder, file) for file in FULL):
            try:
                return _read_set("full", folder, FULL)
            except DataError as error:
                damage = error
                warnings.warn(f"not used: {damage}", stacklevel=2)
    if source == "auto":
        return load("mini")
    try:
        download(cache / "fashion-mnist", seconds=seconds)
    except NetworkError as error:
        raise damage or error from error
    return _read_set("full", cache / "fashion-mnist", FULL)


def to_float(images: UInt8[Array, "*image"]) -> Float[Array, "*image"]:
    """Scale pixels from 0..255 to [0, 1], as torchvision's ToTensor does.

    Call it on the batch: the data set itself stays in bytes, a quarter of the
    memory.
    """
    return images.astype(jnp.result_type(float)) / 255


def download(folder: Path, *, seconds: float = 4.0) -> None:
    """Download the whole set into `folder`, from the first mirror that delivers it.

    A file appears under its name only when its unpacked bytes are right.

    Raises:
      DataError: if `folder` cannot be written.
      NetworkError: if no mirror delivers the set; a warning says why each did not.
    """
    import requests

    for mirror in MIRRORS:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as unchecked:
                for file in FULL:
                    part = Path(unchecked) / f"{file.name}.gz"
                    url = f"{mirror}{part.name}"
                    fetch(url, part, folder=folder, seconds=seconds)
                    idx.read(part, file)
                    os.replace(part, folder / part.name)
            return
        except (requests.RequestException, DataError) as error:
            warnings.warn(f"mirror {mirror} failed: {error}", stacklevel=2)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error}") from error
    names = ", ".join(f"{file.name}.gz" for file in FULL)
    raise NetworkError(
        f"no mirror delivers Fashion-MNIST: put {names} (for example from {SOURCE}) "
        f"into {folder}, or use the shipped tenth (mini)"
    )


def _read_set(name: str, folder: Path, files: tuple[IdxFile, ...]) -> FashionMNIST:
    paths = {file: idx.find(folder, file) for file in files}
    missing = [file.name for file, path in paths.items() if path is None]
    if missing:
        found = "has no" if folder.is_dir() else "is not a folder; expected one with"
        raise DataError(f"{folder} {found} {', '.join(missing)} (packed as .gz or not)")
    arrays = [idx.read(path, file) for file, path in paths.items() if path]
    return FashionMNIST(*arrays, name=name, folder=folder)
