"""IDX files of unsigned bytes, the format of MNIST and Fashion-MNIST, checked."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ch4jax.data.files import open_file
from ch4jax.errors import DataError

MAX_BYTES = 2**30


class IdxFile(NamedTuple):
    """What a file must hold.

    Attributes:
      name: without the `.gz` that it may carry.
      shape: of the array in it.
      sha256: of the unpacked bytes, header included.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str


def find(folder: Path, file: IdxFile) -> Path | None:
    """Return the path of `file` in `folder`, packed or not; None if it is not there."""
    for name in (file.name, f"{file.name}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read(path: Path, file: IdxFile) -> UInt8[np.ndarray, "..."]:
    """Read the array in `path`, which must hold exactly what `file` describes.

    Raises:
      DataError: if it does not; the message names the file, and size or SHA-256 as
        they are and as they should be.
    """
    header = 4 + 4 * len(file.shape)  # bytes; the hash covers what they say
    expected = header + math.prod(file.shape)
    try:
        with (
            open_file(path, MAX_BYTES) as raw,
            gzip.open(raw) if path.suffix == ".gz" else raw as stream,
        ):
            content = stream.read(expected + 1)  # no more, however much is packed
    except (EOFError, OSError, zlib.error) as error:  # cut off, no file, not packed
        raise DataError(f"{path} cannot be read: {error}") from error

    if len(content) != expected:
        size = f"{len(content):,}" if len(content) < expected else "more"
        raise DataError(f"{path} has {size} bytes, expected {expected:,}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise DataError(
            f"{path} has other contents than {file.name}: SHA-256 of the unpacked "
            f"bytes is {sha256}, expected {file.sha256}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(file.shape)
