"""Data sets, and the folder that downloads go to."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder that downloads go to: `$CH4JAX_DATA`, or the user's cache."""
    if folder := os.environ.get("CH4JAX_DATA"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ch4jax"))
