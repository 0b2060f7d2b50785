"""Opening files that may not be what they should be."""

import errno
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 2**27


def open_file(path: Path, max_bytes: int = sys.maxsize) -> BinaryIO:
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


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if the file holds none."""
    try:
        with open_file(path, MAX_JSON_BYTES) as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
