"""Parameters for others to read: safetensors, a configuration and a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage import _manifest as manifest
from ch4jax.storage import atomic

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
DTYPES = {
    *("bool", "bfloat16", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
}


def export(directory: str | Path, params: PyTree, config: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, `config.json` and a model card, all or nothing.

    Args:
      directory: an earlier export there is replaced.
      params: as `storage.save` takes it. The tensor of a leaf is called after its
        keys, joined by dots.
      config: what JSON can hold; tuples come back as lists.

    Raises:
      Refused: if the parameters or `config` could not be brought back, or if there is
        something else at `directory`; nothing was written.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not (directory / CONFIG).is_file():
        raise Refused(f"{directory} is there already, and is not an export")
    content, arrays = manifest.describe(params)
    names = _names(content)
    for n in arrays:
        record = content["leaves"][int(n)]
        record["tensor"] = names[int(n)]
        if record["kind"] != "key" and record["dtype"] not in DTYPES:
            raise Refused(
                f"{record['path']} is {record['dtype']}, which safetensors has not"
            )
    tensors = {names[int(n)]: np.ascontiguousarray(a) for n, a in arrays.items()}
    model = safetensors.numpy.save(tensors)
    content |= {"config": dict(config), "files": {MODEL: atomic.digest(model)}}
    sealed, card = manifest.seal(content), _card(directory.name, content)
    with atomic.replacing(directory) as part:
        (part / MODEL).write_bytes(model)
        (part / CONFIG).write_text(sealed)
        (part / CARD).write_text(card, encoding="utf-8")


def load_exported(
    directory: str | Path, like: PyTree = None
) -> tuple[PyTree, dict[str, Any]]:
    """Return the parameters and the configuration that `export` was given.

    Args:
      directory: as `export` took it.
      like: as `storage.load` takes it.

    Raises:
      Damaged: if a bit of either has changed.
      Mismatch: if the parameters are not like `like`; names the leaves.
    """
    path = Path(directory).resolve()
    folder = atomic.find(path)
    like = ... if like is None else like
    try:
        content = manifest.unseal(folder / CONFIG)
        manifest.check_like(content, like)
        if atomic.digest(atomic.read(folder / MODEL)) != content["files"][MODEL]:
            raise Damaged(f"{MODEL} has the wrong SHA-256")
        tensors = safetensors.numpy.load_file(folder / MODEL)
        arrays = {
            str(n): tensors[record["tensor"]]
            for n, record in enumerate(content["leaves"])
            if "tensor" in record
        }
        return manifest.rebuild(content, arrays, like), content["config"]
    except (Damaged, Mismatch) as error:
        raise type(error)(f"{path}: {error}") from None


def _names(content: dict[str, Any]) -> dict[int, str]:
    names: dict[int, str] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, int):
            names[node] = name.lstrip(".") or "params"
            return
        for key, child in zip(node["keys"], node["children"], strict=True):
            walk(child, f"{name}.{str(key).lstrip('.')}")

    walk(content["tree"], "")
    by_name = {name: n for n, name in names.items()}
    for n, name in names.items():
        if (other := by_name[name]) != n:
            paths = [content["leaves"][i]["path"] for i in (n, other)]
            raise Refused(f"{paths[0]} and {paths[1]} would both be called {name}")
    return names


def _card(title: str, content: dict[str, Any]) -> str:
    records = [record for record in content["leaves"] if "tensor" in record]
    count = sum(int(np.prod(record["shape"])) for record in records)
    rows = [
        f"| `{record['tensor']}` | {record['dtype']} | {tuple(record['shape'])} |"
        for record in records
    ]
    versions = ", ".join(f"{name} {v}" for name, v in content["versions"].items())
    return "\n".join(
        [
            f"# {title}\n",
            f"{count:,} parameters in `{MODEL}`; `{CONFIG}` holds the configuration,",
            "the form of the tree, and the SHA-256 of the model and of each tensor.\n",
            "```python",
            "from ch4jax.export import load_exported",
            f'params, config = load_exported("{title}")',
            "```\n",
            "| tensor | dtype | shape |",
            "| --- | --- | --- |",
            *rows,
            "\nConfiguration:\n",
            "```json",
            json.dumps(content["config"], indent=2),
            "```\n",
            f"Written with {versions}.\n",
        ]
    )
