"""Opening files that may not be what they should be."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_file(path: Path, max_bytes: int) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
      OSError: if `path` cannot be opened; if it is a FIFO, a socket or a device, which
        may never end; or if it has more than `max_bytes`.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > max_bytes:
        reason = f"{status.st_size:,} bytes, expected at most {max_bytes:,}"
        raise OSError(errno.EFBIG, reason, str(path))
    return open(path, "rb")
