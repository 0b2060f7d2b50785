"""One page of what this machine does: every experiment, its numbers and figures.

Without flags: each experiment does the book's run, one after the other, and
report/index.html shows what came out. `--quick` makes them small, two at a time, and
leaves out what times and compares; `--runs DIR` shows runs that were made before.
"""

import importlib.metadata
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ch4jax.storage import atomic
from experiments.__main__ import experiments
from experiments.common import cli
from experiments.common.errors import Interrupted, UsageError
from experiments.report import page
from experiments.report import runs as page_runs

ITSELF = Path(__file__).stem
LEFT_OUT = {ITSELF, "launch"}
# Compiling takes most of the time of a small run; the longest stands first.
QUICK = {
    "initialization": ("--epochs", "2", "--seeds", "1"),
    "dropout": ("--data", "mini", "--epochs", "30"),
    "weight_decay": ("--lambdas", "24", "--seeds", "8"),
    "house_prices": ("--seeds", "2"),
    "storage": ("--flips", "20", "--kills", "1"),
    "profile": ("--data", "mini", "--rounds", "3"),
}
# For --quick, even at their smallest.
TOO_LONG = {"benchmark", "compare", "end_to_end", "growth"}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; seed and platform are handed on to every experiment."""

    out: Path = Path("report")
    """Folder of index.html, and of the runs that are made for it."""
    quick: bool = False
    """Small runs, in two minutes on two cores."""
    runs: tuple[Path, ...] = ()
    """Folders to take runs from, however deep; the newest of each experiment wins."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        if self.runs and self.quick:
            raise UsageError(
                "--quick must not be given with --runs, which runs nothing"
            )
        for folder in self.runs:
            if not folder.is_dir():
                raise UsageError(f"--runs must be folders, got {folder}")


class Running(NamedTuple):
    """A run that is under way."""

    name: str
    command: list[str]
    folder: Path
    start: float
    process: subprocess.Popen[bytes]


def run(config: Config) -> int:
    """Make or take the runs, and write the page.

    Returns:
      The exit code: 1 if a run failed.

    Raises:
      UsageError: if the page cannot be written.
    """
    started = datetime.now().strftime("%Y%m%d-%H%M%S")
    index, folder = config.out / "index.html", config.out / "runs" / started
    try:
        (config.out if config.runs else folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {config.out} cannot be written: {error.strerror}"
        ) from None
    sentences = {k: v for k, v in experiments().items() if k not in LEFT_OUT}
    entries = (
        page_runs.entries(config.runs, sentences)
        if config.runs
        else list(run_all(config, sentences, folder))
    )
    remake = shlex.join(["python", "-m", f"experiments.{ITSELF}", *sys.argv[1:]])
    with atomic.writing(index) as part:
        part.write_text(page.render(entries, remake), encoding="utf-8")
    print(f"report: {index}")
    return int(any(entry.failed for entry in entries))


def run_all(
    config: Config, sentences: Mapping[str, str], folder: Path
) -> Iterator[page_runs.Entry]:
    """Run every experiment; yield each when it is done."""
    names = sorted(sentences, key=[*QUICK, *sentences].index)
    if not config.quick:
        yield from run_some(config, names, sentences, folder, lanes=1)
        return
    for name in sorted(TOO_LONG & set(names)):
        command = f"python -m experiments.{name}"
        reason = "--quick leaves it out, since it takes minutes"
        yield page_runs.Entry(name, sentences[name], command, reason=reason)
    names = [name for name in names if name not in TOO_LONG]
    lanes = 1 if exclusive(config.platform) else 2
    yield from run_some(config, names, sentences, folder, lanes)


def exclusive(platform: str | None) -> bool:
    """Return whether JAX may find a device that serves one process at a time."""
    if (platform or os.environ.get("JAX_PLATFORMS")) == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None


def run_some(
    config: Config,
    names: Sequence[str],
    sentences: Mapping[str, str],
    folder: Path,
    lanes: int,
) -> Iterator[page_runs.Entry]:
    """Run some experiments, as many at a time as there are lanes."""
    waiting, running = list(names), list[Running]()
    try:
        while waiting or running:
            if waiting and len(running) < lanes:
                running.append(start(config, waiting.pop(0), folder))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                yield finish(one, sentences[one.name])
            time.sleep(0.02)
    finally:
        for one in running:
            one.process.terminate()
            one.process.wait()


def start(config: Config, name: str, folder: Path) -> Running:
    """Start an experiment; what it prints goes to a file beside its run folder."""
    command = ["python", "-m", f"experiments.{name}"]
    command += QUICK.get(name, ()) if config.quick else ()
    command += ["--seed", str(config.seed)] if config.seed else []
    command += ["--platform", config.platform] if config.platform else []
    print(shlex.join(command), flush=True)
    out = folder / name
    with out.with_suffix(".log").open("wb") as log, _errors(out).open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *command[1:], "--out", str(out)],
            stdout=log,
            stderr=errors,
        )
    return Running(name, command, out, time.perf_counter(), process)


def finish(done: Running, sentence: str) -> page_runs.Entry:
    """Return the entry of a run that has ended, and say how it went."""
    seconds = time.perf_counter() - done.start
    code = done.process.returncode
    reason = ""
    if code:
        said = _errors(done.folder).read_text(errors="replace").strip()
        last = said.rpartition("\n")[2] or "it said nothing"
        reason = f"exit code {code}: {last}" if code > 0 else f"signal {-code}: {last}"
    print(f"{done.name}: {reason or f'{seconds:.1f} s'}", flush=True)
    finished = (done.folder / "summary.json").exists()
    return page_runs.Entry(
        done.name,
        sentence,
        shlex.join(done.command),
        done.folder if finished else None,
        seconds,
        reason,
        failed=bool(code),
    )


def _errors(folder: Path) -> Path:
    return folder.with_suffix(".err")


def main() -> None:
    """Run from the command line; devices are left alone, for the runs to have."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(cli.answer(lambda: run(cli.parse(Config))))


def _terminate(number: int, _: Any) -> None:
    raise Interrupted("terminated", number)


if __name__ == "__main__":
    main()
