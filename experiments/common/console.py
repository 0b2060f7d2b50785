"""What a run prints, and what it leaves in its run folder."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ch4jax.storage import atomic
from ch4jax.training import sharding
from experiments.common import resume
from experiments.common import roofline as floors
from experiments.common.errors import UsageError

PACKAGES = ("ch4jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Report:
    """The console and the run folder of one run.

    Attributes:
      folder: from `begin` on, holds `config.json`, `env.json`, `metrics.jsonl`, the
        figures, and, once the run is done, `summary.json`.
      checkpoints: the folder that they are in.
      save_every: epochs from one checkpoint to the next, None for no checkpoints.
      devices: as --devices was given.
      rank: which of the processes of the run this is. Only the first prints, and only
        its folder is kept.
      console: where lines and tables go.
    """

    def __init__(self, name: str, rank: int = 0) -> None:
        self.name = name
        self.rank = rank
        self.folder = Path()
        self.checkpoints = Path("checkpoints")
        self.save_every: int | None = None
        self.devices: int | None = None
        width = None if sys.stdout.isatty() else 100
        self.console = Console(highlight=False, width=width, quiet=rank > 0)
        self._start = time.perf_counter()

    def begin(self, config: Any) -> None:
        """Make the run folder, once flags and data are known to be sound.

        What an earlier run left in it is replaced, but checkpoints never are.

        Raises:
          UsageError: if it cannot be written or gone on with, or has checkpoints and
            is not to be gone on with; if there are not so many devices; if the
            processes of the run are not alike.
        """
        flags = dataclasses.asdict(config)
        self.devices = flags.get("devices")
        found = environment(self.devices)
        _check_alike(_plain(flags), found["packages"])
        earlier = flags.get("resume")
        if earlier is not None:
            resume.check(earlier, _plain(flags), _plain(found))
        self.save_every = flags.get("save_every")
        started = datetime.now().strftime("%Y%m%d-%H%M%S")
        default = Path("runs") / self.name / f"{started}-seed{config.seed}"
        self.folder = earlier or config.out or default
        self.checkpoints = self.folder / "checkpoints"
        if self.rank:
            self.folder = Path(tempfile.mkdtemp(prefix="ch4jax-"))
        elif earlier is None and self.checkpoints.exists():
            raise UsageError(
                f"--out {self.folder} holds the checkpoints of an earlier run: go on "
                f"with it by --resume {self.folder}, or remove them"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "metrics.jsonl").write_text("")
            (self.folder / "summary.json").unlink(missing_ok=True)
            self.write_json("config.json", flags)
            self.write_json("env.json", found)
        except OSError as error:
            raise UsageError(
                f"--out {self.folder} cannot be written: {error.strerror}"
            ) from None

    def say(self, text: str = "") -> None:
        """Print a line, or several."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = ""
    ) -> None:
        """Print a table: the first column is text, the others are numbers."""
        table = Table(title=title or None, title_justify="left", title_style="bold")
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    @contextmanager
    def progress(
        self, label: str, total: int, *, done: int = 0
    ) -> Iterator[Callable[[str], None]]:
        """Count from `done` to `total` steps: a bar on a terminal, lines elsewhere.

        Yields:
          A function to call after each step, with what is to be said of it.
        """
        if not self.console.is_terminal:
            count = iter(range(done + 1, total + 1))
            yield lambda text: self.say(f"{label} {next(count)}/{total}: {text}")
            return
        columns = (
            TextColumn(label),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("compiling", total=total, completed=done)
            yield lambda text: bar.update(task, advance=1, description=text)

    def metrics(self, **row: Any) -> None:
        """Append a row to `metrics.jsonl`."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_plain(row), allow_nan=False) + "\n")

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._start

    @staticmethod
    def peak_memory_mb() -> float | None:
        """Return the most memory the process ever held; None where it is not told."""
        try:
            import resource
        except ModuleNotFoundError:  # not a Unix
            return None
        return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, all or nothing."""
        text = json.dumps(_plain(content), indent=2, allow_nan=False)
        with atomic.writing(self.folder / name) as part:
            part.write_text(text + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json` and say where everything is."""
        self.write_json("summary.json", {"experiment": self.name, **summary})
        self.say(f"run folder: {self.folder}")


def megabytes(ru_maxrss: int) -> float:
    """Return megabytes: `getrusage` counts bytes on macOS, and else kilobytes."""
    return ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def count(number: int, thing: str) -> str:
    """Return `1 seed`, `5 seeds`.

    >>> count(1, "seed"), count(5_000, "seed")
    ('1 seed', '5,000 seeds')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def environment(num_devices: int | None = None) -> dict[str, Any]:
    """Return versions, the devices to be used, and the variables that JAX heeds.

    Raises:
      UsageError: if there are not so many devices.
    """
    try:
        mesh = sharding.make_mesh(num_devices)
    except ValueError as error:
        cpu = jax.default_backend() == "cpu"
        hint = "; JAX_NUM_CPU_DEVICES=N makes a CPU count as N" if cpu else ""
        raise UsageError(f"--devices: {error}{hint}") from None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": floors.processor(),
        "cpu_count": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [str(device.device_kind) for device in mesh.devices.flat],
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "CH4JAX_"))
        },
    }


def _check_alike(flags: dict[str, Any], packages: dict[str, str]) -> None:

    own = {"process_id", "out", "resume"}
    alike = {name: value for name, value in flags.items() if name not in own}
    try:
        sharding.check_same(json.dumps([alike, packages], sort_keys=True))
    except ValueError:
        raise UsageError(
            "the processes must have the same flags, data and versions, and have not"
        ) from None


def _plain(value: Any) -> Any:
    """Return what JSON can hold: lists for tuples, null for what is not a number."""
    if isinstance(value, dict):
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
