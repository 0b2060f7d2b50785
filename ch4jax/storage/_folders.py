"""Saving and restoring (D2L 6.5): what comes back is what was saved, or an error.

A saved tree is a folder: `manifest.json` (see `ch4jax.manifest`) tells the tree, the
hash of each leaf and of each file; `arrays/` holds the numbers, written by Orbax. It
is made under another name, synced, and renamed, so that it is there as a whole or not
at all.
"""

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

import ch4jax.storage._manifest as manifest
import ch4jax.storage.atomic as atomic
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage._leaves import raw_bytes

MANIFEST = "manifest.json"
ARRAYS = "arrays"


def save(path: str | Path, tree: PyTree) -> None:
    """Save a tree as the folder `path`, in place of one that was saved there before.

    Leaves are arrays of JAX's or NumPy's, typed random keys, and Python's bool, int,
    float, complex and str; containers are dictionaries with keys of str or int, lists,
    tuples, None, and whatever else JAX knows as a tree.

    Raises:
      Refused: if some of it could not be brought back as it is, which names it, or if
        there is something at `path` that was not saved here; nothing was written.
      OSError: if `path` cannot be written; what was there stays.
    """
    path = Path(path).resolve()
    if path.exists() and not (path / MANIFEST).is_file():
        raise Refused(f"{path} is there already, and is not a tree that was saved")
    _write(path, tree)


def load(path: str | Path, like: PyTree = None) -> PyTree:
    """Return the tree that was saved as `path`.

    Args:
      path: as `save` took it.
      like: a tree of the same form, whose leaves are arrays, of JAX's or NumPy's, or
        `jax.ShapeDtypeStruct`; each leaf comes back as the kind, and on the devices,
        of the one in its place. `...` stands for whatever was saved there. None: all
        comes back as it was saved, which named tuples and the like cannot do.

    Raises:
      Damaged: if a bit of it has changed.
      Mismatch: if it is not like `like`; names the leaves.
    """
    return _read(Path(path).resolve(), ... if like is None else like)[0]


class Checkpoints:
    """The newest states of a run, each saved as a folder named after its step.

    One process at a time: opening them clears away what a killed one left.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        """Open the checkpoints in `directory`, which is made when it is needed.

        Args:
          directory: of this run alone.
          keep: how many are kept, at least 1; the oldest goes first.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).resolve()
        self.keep = keep
        atomic.clear(self.directory)
        self._last = max(self.steps(), default=-1)

    def steps(self) -> list[int]:
        """Return the steps that are saved, oldest first."""
        names = (entry.name for entry in self.directory.glob("*") if entry.is_dir())
        steps = sorted(int(name) for name in names if re.fullmatch("[0-9]{8,}", name))
        return [step for step in steps if self._folder(step).is_dir()]

    def save(self, step: int, state: PyTree) -> None:
        """Save `state`; then drop what is older than the newest `keep`.

        After a `restore` of an earlier step, the later ones are dropped first: they
        belong to a run that is not gone on with.

        Raises:
          ValueError: if `step` is not after the last that was saved or restored.
          Refused, OSError: as `save`.
        """
        if step <= self._last:
            raise ValueError(
                f"step must be after {self._last}, the last that was saved or "
                f"restored in {self.directory}, got {step}"
            )
        for later in self.steps():
            if later > self._last:
                atomic.remove(self._folder(later))
        _write(self._folder(step), state)
        self._last = step
        for old in self.steps()[: -self.keep]:
            atomic.remove(self._folder(old))

    def restore(
        self, like: PyTree = None, step: int | None = None
    ) -> tuple[int, PyTree]:
        """Return a step and its state.

        Warns where the newest are damaged and an older one is taken, and where the
        number of devices is not that of the run that saved: it goes on, but not bit
        for bit.

        Args:
          like: as `load` takes it.
          step: which; None takes the newest that is sound.

        Raises:
          Damaged: if none can be read; says why.
          Mismatch: if it is not like `like`; names the leaves.
        """
        steps = self.steps()[::-1] if step is None else [step]
        damages = []
        for candidate in steps:
            try:
                state, saved = _read(
                    self._folder(candidate), ... if like is None else like
                )
            except Damaged as error:
                damages.append(str(error))
                continue
            if damages:
                warnings.warn(
                    f"went back to step {candidate}: {'; '.join(damages)}",
                    stacklevel=2,
                )
            now = manifest.count_devices(like)
            if now and saved["devices"] and now != saved["devices"]:
                warnings.warn(
                    f"devices: {saved['devices']} when step {candidate} was saved, "
                    f"{now} now; the run goes on, but not bit for bit",
                    stacklevel=2,
                )
            self._last = candidate
            return candidate, state
        raise Damaged("; ".join(damages) or f"{self.directory} holds no checkpoint")

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:08d}"


def _write(path: Path, tree: PyTree) -> None:
    content, arrays = manifest.describe(tree)
    flat = {n: _native(array) for n, array in arrays.items() if array.size}
    with atomic.replacing(path) as part:
        if flat:
            try:
                (part / ARRAYS).mkdir()
                handler, args = _orbax()
                handler.save(part / ARRAYS, args=args.StandardSave(flat))
                handler.finalize(part / ARRAYS)
            except Exception as error:
                reason = _first_line(error)
                raise OSError(f"{path} cannot be written: {reason}") from error
        content["files"] = {
            str(file.relative_to(part)): atomic.digest(atomic.read(file))
            for file in sorted(part.rglob("*"))
            if file.is_file()
        }
        (part / MANIFEST).write_text(manifest.seal(content))


def _read(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    folder = atomic.find(path)
    try:
        content = manifest.unseal(folder / MANIFEST)
        manifest.check_like(content, like)
        # Orbax sees no file that has changed: it may read one as other numbers.
        for name, expected in content["files"].items():
            if atomic.digest(atomic.read(folder / name)) != expected:
                raise Damaged(f"{name} has the wrong SHA-256")
        arrays = _restore(folder / ARRAYS) if content["files"] else {}
        return manifest.rebuild(content, arrays, like), content
    except (Damaged, Mismatch) as error:
        raise type(error)(f"{path}: {error}") from None


def _restore(folder: Path) -> dict[str, np.ndarray]:
    try:
        handler, args = _orbax()
        return handler.restore(folder, args=args.StandardRestore())
    except Exception as error:
        raise Damaged(f"Orbax cannot read it: {_first_line(error)}") from None


@cache
def _orbax() -> tuple[Any, Any]:
    import orbax.checkpoint as ocp

    # Without the Checkpointer around it, which writes elsewhere and renames: that is
    # done here, for the manifest too.
    return ocp.StandardCheckpointHandler(), ocp.args


def _native(array: np.ndarray) -> np.ndarray:
    # Orbax has not all of JAX's dtypes, and takes no bool but 0 and 1.
    native = array.dtype.isbuiltin == 1 and array.dtype != bool
    return array if native else raw_bytes(array)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
