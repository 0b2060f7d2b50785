"""The folder of a run: what was asked for, what was measured, what was shown."""

import atexit
import dataclasses
import errno
import fcntl
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ch4jax.storage import atomic
from ch4jax.training import sharding
from experiments.common import console, distributed, plots, resume, roofline, setup
from experiments.common.cli import DeviceFlags, Flags, TrainingFlags
from experiments.common.errors import Failed, UsageError

PACKAGES = ("ch4jax", "jax", "jaxlib", "flax", "optax", "numpy")


class RunFolder:
    """The folder of one run.

    It holds `config.json`, `env.json`, `metrics.jsonl`, the figures, and, once the run
    is finished, `summary.json` (numbers) and `record.json` (what was shown: headline,
    tables, captions), from which `experiments.report` makes its page.

    Attributes:
      name: of the experiment.
      path: the folder. Of several processes only the first keeps its own.
      checkpoints: the folder of the checkpoints, which all processes read.
      tables: of the page; `table` prints what it adds.
    """

    def __init__(self, name: str, path: Path) -> None:
        """Use `create`; this makes nothing."""
        self.name = name
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._start = time.perf_counter()
        self._first: dict[str, Mapping[str, Any]] = {}  # files still to be written
        self.tables: list[dict[str, Any]] = []
        self._figures: list[dict[str, str]] = []

    @classmethod
    def create(
        cls, name: str, config: Flags, resolved: Mapping[str, Any] | None = None
    ) -> "RunFolder":
        """Make the folder of a run, once flags and data are known to be sound.

        A folder that is resumed stays as it is until the first call of `continue_from`.

        Args:
          name: of the experiment.
          config: its flags.
          resolved: what the run worked out itself, in place of flags of that name.

        Raises:
          UsageError: if the folder cannot be written or resumed, or holds something
            and is not to be resumed; if another process is writing to it; if there
            are not as many devices; if the processes of the run differ.
          Damaged: if none of the checkpoints to resume from can be read.
        """
        flags = _plain(dataclasses.asdict(config) | dict(resolved or {}))
        mesh = config.mesh() if isinstance(config, DeviceFlags) else None
        found = _plain(_environment(mesh or sharding.make_mesh(), name))
        own = {"process_id", "out", "resume"}
        shared = {flag: value for flag, value in flags.items() if flag not in own}
        same = [shared, found["packages"], found["numerics"]]
        distributed.check_same(json.dumps(same))
        earlier = config.resume if isinstance(config, TrainingFlags) else None
        if earlier is not None:
            resume.check(earlier, flags, found)
        if jax.process_index() > 0:
            path = Path(tempfile.mkdtemp(prefix="ch4jax-"))
            atexit.register(shutil.rmtree, path, ignore_errors=True)
        elif earlier is not None:
            path = earlier
            resume.check_checkpoints(path)
        else:
            path = make_folder(config.out, Path("runs") / name, f"-seed{config.seed}")
        folder = cls(name, path)
        lock(path)
        folder.checkpoints = (earlier or path) / "checkpoints"
        folder._first = {"config.json": flags, "env.json": found}
        if earlier is None:
            folder.continue_from([])
        if "min" in (time := console.TIMES.get(name, "")):
            console.say(f"without flags this takes about {time} on two cores\n")
        return folder

    def continue_from(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begin `metrics.jsonl` with `rows`, or append them.

        Call it with what a checkpoint holds, before the first epoch after it. The first
        call replaces what an earlier run has left there, which may be torn.
        """
        if self._first:
            with writable(self.path):
                for old in ("summary.json", "record.json"):
                    (self.path / old).unlink(missing_ok=True)
                with atomic.writing(self.path / "metrics.jsonl") as part:
                    part.touch()
                for name, content in self._first.items():
                    self._write_json(name, content)
            self._first = {}
        for row in rows:
            self.metrics(**row)

    def metrics(self, **row: Any) -> None:
        """Append a row to `metrics.jsonl`."""
        with writable(self.path), (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_plain(row), allow_nan=False) + "\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        *,
        num_texts: int = 1,
    ) -> None:
        """Print a table, and record it for the page.

        Args:
          columns: their heads.
          rows: a text for each column.
          title: above the table.
          num_texts: how many columns, from the left, hold words; the others, numbers.
        """
        console.table(columns, rows, title, num_texts=num_texts)
        self.tables.append(
            {"title": title, "columns": columns, "rows": rows, "num_texts": num_texts}
        )

    @contextmanager
    def figure(
        self, file: str, *panels: int, caption: str, alt: str, **given: Any
    ) -> Iterator[Any]:
        """Lend axes to draw on, and record the figure.

        Args:
          file: name of the PNG in the folder.
          *panels: rows and columns of panels, as `plots.figure` takes them.
          caption: what to look for; shown under the figure on the page.
          alt: what is drawn, for readers who do not see it. It names no outcome, which
            differs from run to run.
          **given: size, title, and what else `plots.figure` takes.
        """
        path = self.path / file
        with writable(self.path), plots.figure(path, *panels, **given) as axes:
            yield axes
        stacked = plots.narrow(path)
        kept = {"narrow": stacked.name} if stacked.exists() else {}
        self._figures.append({"file": file, "caption": caption, "alt": alt} | kept)

    def seconds(self) -> float:
        """Return the seconds since the folder was made."""
        return time.perf_counter() - self._start

    def finish(self, summary: Mapping[str, Any], *, headline: str) -> None:
        """Write `record.json` and `summary.json`; print what was found and drawn.

        Args:
          summary: the numbers of the run. Unless it has `seconds` of its own, they are
            those since the folder was made.
          headline: the main ones in a sentence.
        """
        whole = {"experiment": self.name, "seconds": self.seconds(), **summary}
        self._write_json(
            "record.json",
            {"headline": headline, "tables": self.tables, "figures": self._figures},
        )
        # Last, since a run that has a summary is finished.
        self._write_json("summary.json", whole)
        console.say(f"\n{headline}\n\nrun folder: {self.path}")
        for figure in self._figures:
            console.say(f"  {figure['file']}: {figure['caption']}")

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(_plain(content), indent=2, allow_nan=False)
        with writable(self.path), atomic.writing(self.path / name) as part:
            part.write_text(text + "\n")


_locked: list[int] = []  # the descriptor of the folder that this process writes to


def lock(path: Path) -> None:
    """Keep other processes from writing to a folder, until this one ends.

    Raises:
      UsageError: if another process does.
    """
    while _locked:  # of an earlier run
        os.close(_locked.pop())
    _locked.append(os.open(path, os.O_RDONLY))
    try:
        fcntl.flock(_locked[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{path}: another process trains there") from error
    except OSError:  # a file system without locks
        pass


def make_folder(out: Path | None, parent: Path, suffix: str = "") -> Path:
    """Make the folder `out`, or one in `parent` that is named after the time.

    Raises:
      UsageError: if it cannot be written, or if `out` exists and is not empty.
    """
    if out is not None:
        with writable(out):
            out.mkdir(parents=True, exist_ok=True)
            found = min((entry.name for entry in out.iterdir()), default=None)
        if found:
            raise UsageError(
                f"--out must be a new or empty folder, got {out}, which holds {found}; "
                f"--resume {out} continues an interrupted run"
            )
        return out
    started = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, numbers = parent / f"{started}{suffix}", itertools.count(2)
    with writable(path):
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.mkdir()
                return path
            except FileExistsError:
                path = parent / f"{started}{suffix}-{next(numbers)}"


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Raise UsageError if the block cannot write to `out`, Failed if it is full."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = Failed if full else UsageError
        raise kind(f"--out {out} cannot be written: {error.strerror}") from error


def _environment(mesh: Mesh, name: str) -> dict[str, Any]:
    """Return the command, versions, devices, and the variables that JAX reads."""
    return {
        "command": resume.command(name),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": roofline.processor(),
        "cpu_count": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [str(device.device_kind) for device in mesh.devices.flat],
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
        "numerics": setup.numerics(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "CH4JAX_"))
        },
    }


def _plain(value: Any) -> Any:
    """Return what JSON can hold: lists for tuples, null for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (int, str)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    return _plain(value.tolist())  # an array of NumPy's or JAX's
