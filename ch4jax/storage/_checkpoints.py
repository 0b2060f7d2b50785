"""The newest states of a run, one folder for each step."""

import operator
import os
import re
import warnings
from pathlib import Path
from typing import SupportsIndex

from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.errors import Damaged, Refused
from ch4jax.storage._manifest import count_devices
from ch4jax.storage._trees import TREE, read, write


class Checkpoints:
    """The newest states of a run, each saved as a folder named after its step.

    Only one process at a time may save in a directory; any number may read meanwhile.
    The first save removes what a killed process left behind.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        """Open the checkpoints in `directory`; the first save creates it.

        Args:
          directory: holds the checkpoints of one run only; `~` is your home.
          keep: how many checkpoints to keep, at least 1; the oldest is removed first.
        """
        self.directory = atomic.resolve(directory)
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.keep = keep
        self._last = max(self.steps(), default=-1)
        self._cleared = False

    def steps(self) -> list[int]:
        """Return the saved steps, oldest first; folders of others are ignored."""
        names = (entry.name for entry in self.directory.glob("*"))
        steps = {int(name) for name in names if re.fullmatch("[0-9]{8,}", name)}
        found = [n for n in sorted(steps) if atomic.is_marked(self._folder(n), TREE)]
        if all(os.path.lexists(self._folder(n)) for n in steps):
            return found
        return self.steps()  # a writer has newer ones by now

    def save(self, step: SupportsIndex, state: PyTree) -> None:
        """Save `state`, then remove all but the newest `keep` checkpoints.

        After a `restore` of an earlier step, the later checkpoints are removed first:
        they belong to an abandoned run.

        Raises:
          ValueError: if `step` is not after the last step saved or restored.
          Refused, OSError: as in `storage.save`.
        """
        step = operator.index(step)  # an array could be donated later
        if step <= self._last:
            raise ValueError(
                f"step must be after {self._last}, the last that was saved or "
                f"restored in {self.directory}, got {step}"
            )
        if not self._cleared:
            atomic.clear(self.directory, TREE)
            self._cleared = True
        for later in self.steps():
            if later > self._last:
                atomic.remove(self._folder(later), TREE)
        try:
            write(self._folder(step), state, step=step)
        finally:  # what fails after the rename leaves the step in place
            if step in self.steps():
                self._last = step
        try:
            for old in self.steps()[: -self.keep]:
                if atomic.is_ours(self._folder(old), TREE):
                    atomic.remove(self._folder(old), TREE)
        except (OSError, Refused) as error:
            raise OSError(
                f"step {step} is saved, but an older one was not removed: {error}"
            ) from error

    def restore(
        self, like: PyTree = None, step: SupportsIndex | None = None
    ) -> tuple[int, PyTree]:
        """Return a step and its state.

        Warns if the newest checkpoints are damaged and an older one is restored, and if
        the number of devices differs from that of the run that saved: a run can resume
        on other devices, but not bit for bit.

        Args:
          like: as `storage.load` takes it.
          step: which step; None restores the newest that is not damaged.

        Raises:
          Damaged: if no checkpoint can be read; says why.
          Mismatch: if the state is not like `like`; names the leaves.
        """
        damages = []
        newest_first = self.steps()[::-1] if step is None else [operator.index(step)]
        for candidate in newest_first:
            folder = self._folder(candidate)
            try:
                state, manifest = read(folder, like)
                if (holds := manifest.get("step", candidate)) != candidate:
                    raise Damaged(f"{folder} holds step {holds}: was it renamed?")
            except Damaged as error:
                if step is None and not folder.exists():
                    return self.restore(like)  # a writer has newer ones by now
                damages.append(str(error))
                continue
            if damages:
                message = f"went back to step {candidate}: {'; '.join(damages)}"
                warnings.warn(message, stacklevel=2)
            before, now = manifest["devices"], count_devices(like)
            if before and now and before != now:
                warnings.warn(
                    f"devices: {before} when step {candidate} was saved, {now} now; "
                    "the run resumes, but not bit for bit",
                    stacklevel=2,
                )
            self._last = candidate
            return candidate, state
        raise Damaged("; ".join(damages) or f"{self.directory} holds no checkpoint")

    def _folder(self, step: int) -> Path:
        return self.directory / f"{step:08d}"
