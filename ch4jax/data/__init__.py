"""Data sets: where they are looked for, and what is raised when they are wrong."""

import os
from pathlib import Path


class DataError(Exception):
    """A file is not what it should be; the message names it and what was expected."""


class NetworkError(Exception):
    """Something has to be downloaded and cannot be; the message says what to do."""


def cache_folder() -> Path:
    """Return the folder that downloads go to: `$CH4JAX_DATA`, or the user's cache."""
    if folder := os.environ.get("CH4JAX_DATA"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ch4jax"))
