"""Parameters for other programs: safetensors, a configuration and a model card."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.errors import Refused
from ch4jax.storage._leaves import NATIVE, digest
from ch4jax.storage._manifest import Manifest, encode
from ch4jax.storage._trees import read, seal

EXPORT = CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"
DTYPES = {*NATIVE, "bfloat16"} - {"complex64", "complex128"}


def export(directory: str | Path, params: PyTree, config: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, `config.json` and a model card, all or nothing.

    Args:
      directory: an earlier export there is replaced; `~` is your home.
      params: any tree that `storage.save` takes. The keys of a leaf, joined by dots,
        are the name of its tensor.
      config: anything that JSON can hold; tuples come back as lists.

    Raises:
      Refused: if the parameters or `config` could not be restored, or if `directory`
        exists and is not an export; nothing was written.
      ValueError: if `directory` is empty or a URL.
    """
    directory = atomic.resolve(directory)
    manifest, arrays, _ = encode(params)
    for record in manifest["leaves"]:
        dtype = record.get("dtype", "float32")
        if record["kind"] != "key" and dtype not in DTYPES:
            raise Refused(f"{record['path']} is {dtype}, which safetensors lacks")
        if record.get("tensor") == "__metadata__":
            raise Refused(f"{record['path']} has a name that safetensors reserves")
    model = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    )
    manifest |= {"config": dict(config), "files": {MODEL: digest(model)}}
    config_text = seal(manifest)
    with atomic.replacing(directory, EXPORT) as part:
        (part / CONFIG).write_text(config_text)
        (part / MODEL).write_bytes(model)
        (part / CARD).write_text(
            _card(directory.name, manifest), encoding="utf-8", errors="backslashreplace"
        )


def load_exported(
    directory: str | Path, like: PyTree = None
) -> tuple[PyTree, dict[str, Any]]:
    """Return the parameters and the configuration that were exported.

    Args:
      directory: the same as for `export`.
      like: see `storage.load`.

    Raises:
      Damaged: if a bit of either has changed.
      Mismatch: if the parameters are not like `like`; names the leaves.
    """
    params, manifest = read(atomic.resolve(directory), like, EXPORT, _tensors)
    return params, manifest["config"]


def _tensors(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / MODEL)


def _card(title: str, manifest: Manifest) -> str:
    records = [record for record in manifest["leaves"] if "tensor" in record]
    count = sum(math.prod(record["shape"]) for record in records)
    rows = "\n".join(
        f"| `{record['tensor']}` | {record['dtype']} | {tuple(record['shape'])} |"
        for record in records
    )
    versions = ", ".join(f"{name} {v}" for name, v in manifest["versions"].items())
    return f"""\
# {title}

{count:,} parameters in `{MODEL}`; `{CONFIG}` holds the configuration,
the structure of the tree, and the SHA-256 of the model and of each tensor.

```python
from ch4jax.interop import load_exported

params, config = load_exported("{title}")
```

| tensor | dtype | shape |
| --- | --- | --- |
{rows}

Configuration:

```json
{json.dumps(manifest["config"], indent=2)}
```

Written with {versions}.
"""
