"""One page of what this machine does: every experiment, its numbers and figures.

Without flags: each experiment does the book's run, one after the other, and
report/index.html shows the results. `--quick` makes them small and leaves out those
that time and compare; `--runs DIR` shows runs that were made before.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ch4jax.data.files import read_object
from ch4jax.storage import atomic
from experiments.__main__ import experiments
from experiments.common import cli
from experiments.common.console import TIMES
from experiments.common.errors import UsageError
from experiments.common.run_folder import make_folder, writable
from experiments.report.page import Entry, render

# In every page of ours, which alone may be replaced.
MARK = b'<meta name="generator" content="ch4jax experiments.report">'
LEFT_OUT = {"aot", "book", "report", "launch"}
# The longest comes first.
QUICK = {
    "initialization": ("--epochs", "2", "--seeds", "2"),
    "dropout": ("--data", "mini", "--train-size", "1000"),
    "weight_decay": ("--lambdas", "24", "--seeds", "8"),
    "house_prices": ("--seeds", "2"),
    "storage": ("--flips", "20", "--kills", "1"),
}
TOO_LONG = {"benchmark", "claims", "compare", "end_to_end", "growth"}
TOO_LONG |= {"search", "time_to_accuracy"}  # for --quick


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; seed, platform and precision are passed on to every experiment."""

    out: cli.FlagPath = Path("report")
    """Folder of index.html, and of the runs that are made for it."""
    quick: bool = False
    """Small runs, in two minutes on two cores."""
    runs: tuple[Annotated[cli.FlagPath, cli.check("folders", Path.is_dir)], ...] = ()
    """Folders to take runs from, however deep; the newest of each experiment wins."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        if self.runs and self.quick:
            raise UsageError(
                "--quick must not be given with --runs, which runs nothing"
            )


def run(config: Config) -> int:
    """Make or find the runs, and write the page.

    Returns:
      The exit code: 1 if a run failed.

    Raises:
      UsageError: if the page cannot be written, or would replace another file.
    """
    index = config.out / "index.html"
    with writable(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        ours = index.is_file() and MARK in index.read_bytes()
        if os.path.lexists(index) and not ours:
            raise UsageError(f"--out: {index} is not a page of this command")
    sentences = {k: v for k, v in experiments().items() if k not in LEFT_OUT}
    if config.runs:
        make = find_runs(config.runs, sentences)
    else:
        print(f"about {'2 minutes' if config.quick else TIMES['report']} on two cores")
        make = run_all(config, make_folder(None, config.out / "runs"))
    made = {entry.name: entry for entry in make}
    entries = [made[name]._replace(sentence=sentences[name]) for name in sentences]
    command = shlex.join(["python", "-m", "experiments.report", *sys.argv[1:]])
    with atomic.writing(index) as part:
        part.write_text(render(entries, command), encoding="utf-8")
    print(f"report: {index}")
    return int(any(entry.failed for entry in entries))


def find_runs(roots: Iterable[Path], names: Collection[str]) -> Iterator[Entry]:
    """Yield the newest run of each experiment, wherever below `roots` it is."""
    files = [file for root in roots for file in root.rglob("summary.json")]
    newest: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: file.lstat().st_mtime):
        name = str(read_object(file).get("experiment"))
        if name in names:
            newest[name] = file.parent
        else:
            print(f"warning: {file} is not the summary of a run", file=sys.stderr)
    for name in names:
        if name not in newest:
            reason = f"no run was found in {', '.join(map(str, roots))}"
            yield Entry(name, f"python -m experiments.{name}", reason=reason)
            continue
        seconds = read_object(newest[name] / "summary.json").get("seconds")
        if isinstance(seconds, dict):
            seconds = seconds.get("total")
        command = read_object(newest[name] / "env.json").get("command", "")
        yield Entry(name, command, newest[name], seconds)


def run_all(config: Config, folder: Path) -> Iterator[Entry]:
    """Run every experiment; yield each when it is finished."""
    names = [name for name in experiments() if name not in LEFT_OUT]
    for name in sorted(names, key=[*QUICK, *names].index):
        command = ["python", "-m", f"experiments.{name}"]
        command += QUICK.get(name, ()) if config.quick else ()
        command += ["--seed", str(config.seed)] if config.seed else []
        command += ["--platform", config.platform] if config.platform else []
        command += ["--precision", config.precision] if config.precision else []
        if config.quick and name in TOO_LONG:
            reason = "--quick leaves it out, since it takes minutes"
            yield Entry(name, shlex.join(command), reason=reason)
        else:
            yield run_one(name, command, folder / name)


def run_one(name: str, command: list[str], out: Path) -> Entry:
    """Run an experiment; what it prints goes to files beside its run folder."""
    print(shlex.join(command), flush=True)
    start = time.perf_counter()
    errors = out.with_suffix(".err")
    with out.with_suffix(".log").open("wb") as log, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *command[1:], "--out", str(out)], stdout=log, stderr=err
        )
        try:
            code = process.wait()
        finally:
            process.terminate()  # nothing happens if it has ended
            try:
                process.wait(timeout=3)
            except subprocess.TimeoutExpired:  # in the middle of an epoch
                process.kill()
                process.wait()
    seconds = time.perf_counter() - start
    reason = ""
    if code:
        last = errors.read_text(errors="replace").strip().rpartition("\n")[2]
        what = f"exit code {code}" if code > 0 else f"signal {-code}"
        reason = f"{what}: {last or 'it printed no error'}"
    print(f"{name}: {reason or f'{seconds:.1f} s'}", flush=True)
    finished = (out / "summary.json").exists()
    return Entry(
        name,
        shlex.join(command),
        out if finished else None,
        seconds,
        reason=reason,
        failed=bool(code),
    )
