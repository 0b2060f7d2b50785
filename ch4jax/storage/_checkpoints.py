"""The newest states of a run, one folder for each step."""

import re
import warnings
from pathlib import Path

from jaxtyping import PyTree

import ch4jax.storage.atomic as atomic
from ch4jax.errors import Damaged
from ch4jax.storage._manifest import count_devices
from ch4jax.storage._trees import read, write


class Checkpoints:
    """The newest states of a run, each saved as a folder named after its step.

    Only one process at a time may open a directory: opening it removes what a killed
    process left behind.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        """Open the checkpoints in `directory`; the first save creates it.

        Args:
          directory: holds the checkpoints of one run only.
          keep: how many checkpoints to keep, at least 1; the oldest is removed first.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).resolve()
        self.keep = keep
        atomic.clear(self.directory)
        self._last = max(self.steps(), default=-1)

    def steps(self) -> list[int]:
        """Return the saved steps, oldest first."""
        names = (entry.name for entry in self.directory.glob("*") if entry.is_dir())
        steps = sorted(int(name) for name in names if re.fullmatch("[0-9]{8,}", name))
        return [step for step in steps if self._folder(step).is_dir()]

    def save(self, step: int, state: PyTree) -> None:
        """Save `state`, then remove all but the newest `keep` checkpoints.

        After a `restore` of an earlier step, the later checkpoints are removed first:
        they belong to an abandoned run.

        Raises:
          ValueError: if `step` is not after the last step saved or restored.
          Refused, OSError: as in `storage.save`.
        """
        if step <= self._last:
            raise ValueError(
                f"step must be after {self._last}, the last that was saved or "
                f"restored in {self.directory}, got {step}"
            )
        for later in self.steps():
            if later > self._last:
                atomic.remove(self._folder(later))
        write(self._folder(step), state)
        self._last = step
        for old in self.steps()[: -self.keep]:
            atomic.remove(self._folder(old))

    def restore(
        self, like: PyTree = None, step: int | None = None
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
        for candidate in self.steps()[::-1] if step is None else [step]:
            try:
                state, manifest = read(self._folder(candidate), like)
            except Damaged as error:
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
