"""Data sets, and the folder that downloads go to."""

import os
import tempfile
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder that downloads go to: `$CH4JAX_DATA`, or the user's cache.

    That of a user without a home is in the folder for temporary files.
    """
    try:
        folder = os.environ.get("CH4JAX_DATA") or platformdirs.user_cache_dir("ch4jax")
        return Path(folder).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir(), "ch4jax")
