"""Whole commands in turn: the dropout experiment, and a PyTorch script of its work.

Everything counts: starting Python, importing, reading the images, compiling or loading
what an earlier run compiled, training with dropout and without for ten epochs each, and
evaluating on the test set after every epoch. Both compute on the CPU and draw nothing.
The first round starts without compiled programs; the others load those that it saved.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.common import cli, plots, roofline, timing
from experiments.common.console import say
from experiments.common.errors import Failed, UsageError
from experiments.common.run_folder import RunFolder

OURS, THEIRS = "experiments.dropout", "plain PyTorch script"


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the measurement."""

    rounds: cli.Count = 5
    """Rounds that are counted, after the one without compiled programs."""
    data: cli.Source = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        if self.platform not in (None, "cpu"):
            raise UsageError(
                "--platform must be cpu, where the PyTorch script computes, "
                f"got {self.platform}"
            )


class Cost(NamedTuple):
    """Seconds from start to end, and the most memory held, None if unknown."""

    seconds: float
    peak_memory_mb: float | None


def run(config: Config) -> None:
    """Run both commands in every round; print, draw, write."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('PyTorch is not installed: pip install -e ".[torch]"')
    data = fashion_mnist.load(config.data)
    if len(list(data.folder.glob("*-ubyte.gz"))) < 4:
        raise UsageError(
            "--data must hold the four files packed (.gz), as the PyTorch script reads "
            f"them, got {data.folder}"
        )
    folder = RunFolder.create("end_to_end", config)
    rounds: list[dict[str, Cost]] = []
    with tempfile.TemporaryDirectory(prefix="ch4jax-") as scratch:
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": f"{scratch}/xla",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for number in range(config.rounds + 1):
            works = commands(config.seed, data, Path(scratch, str(number)))
            costs = {name: measure(name, work, env) for name, work in works.items()}
            rounds.append(costs)
            folder.metrics(round=number, **{k: c._asdict() for k, c in costs.items()})
            seconds = (f"{name} {cost.seconds:.1f} s" for name, cost in costs.items())
            say(f"{'warm' if number else 'first'}: {', '.join(seconds)}")
    warm = entry(f"{OURS}, warm", rounds[1:], OURS)
    theirs = entry(THEIRS, rounds, THEIRS)
    entries = [entry(f"{OURS}, first", rounds[:1], OURS), warm, theirs]
    timings = {e["name"]: timing.summarise(0.0, e["rounds"]) for e in entries}
    disturbed = timing.disturbances(timings, floors={})
    warning = f" ({timing.NOT_QUIET})" if disturbed else ""
    cells = [
        [
            e["name"],
            *(f"{e[key]:.1f}" for key in ("median", "fastest", "slowest")),
            f"{e['ratio']:.2f}x",
            "-" if e["peak_memory_mb"] is None else f"{e['peak_memory_mb']:,.0f}",
        ]
        for e in entries
    ]
    columns = ["", "median (s)", "fastest", "slowest", "PyTorch takes", "peak MB"]
    folder.table(columns, cells, f"whole commands{warning}")
    say("PyTorch takes: the median of the ratios, each within its round")
    if disturbed:
        folder.table([timing.NOT_QUIET, "why"], [*disturbed.items()], num_texts=2)
    draw(entries, len(data.train_images), warning, folder)
    folder.finish(
        {"data": data.name, "commands": entries, "quiet": not disturbed},
        headline=f"From start to end, PyTorch takes {warm['ratio']:.2f} times as long: "
        f"{theirs['median']:.1f} s against {warm['median']:.1f} s{warning}.",
    )


def commands(seed: int, data: FashionMNIST, out: Path) -> dict[str, list[str]]:
    """Return the two commands, by name."""
    source = data.name if data.name == "mini" else str(data.folder)
    recipe = ["--impl", "flax", "--learning-rate", "0.5", "--epochs", "10"]
    recipe += ["--no-figures", "--no-lesson"]
    where = ["--seed", str(seed), "--data", source, "--platform", "cpu"]
    python = [sys.executable, "-m"]
    return {
        OURS: [*python, OURS, *where, *recipe, "--out", str(out)],
        THEIRS: [*python, "experiments.pytorch.script", str(data.folder), str(seed)],
    }


def measure(name: str, command: Sequence[str], env: Mapping[str, str]) -> Cost:
    """Run a command to its end; only its errors are printed.

    Raises:
      Failed: if its exit code is not 0.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{name} ended with exit code {process.returncode}, expected 0")
    peak = roofline.megabytes(usage.ru_maxrss)
    # A new process counts what the one that starts it holds.
    return Cost(seconds, peak if peak > (roofline.peak_memory_mb() or 0) else None)


def entry(
    name: str, rounds: Sequence[Mapping[str, Cost]], command: str
) -> dict[str, Any]:
    """Return the numbers of one of the commands over some rounds."""
    seconds = [costs[command].seconds for costs in rounds]
    ratios = [costs[THEIRS].seconds / costs[command].seconds for costs in rounds]
    peaks = [costs[command].peak_memory_mb for costs in rounds]
    return {
        "name": name,
        "rounds": seconds,
        "median": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "peak_memory_mb": max((p for p in peaks if p is not None), default=None),
    }


def draw(
    entries: Sequence[Mapping[str, Any]], images: int, warning: str, folder: RunFolder
) -> None:
    """Draw a bar for each median, and a point for each round."""
    with folder.figure(
        "end_to_end.png",
        size=(8.5, 2.2),
        title=f"Whole commands: PyTorch takes {entries[1]['ratio']:.2f} times as long"
        f"{warning}",
        caption="How long you wait after typing the command: two networks, ten epochs "
        f"of {images:,} images.",
        alt="Three bars, the median seconds of whole commands: ours the first time, "
        "ours with compiled programs kept, and PyTorch's; a point for each round.",
    ) as axes:
        for y, e in enumerate(entries):
            colour = plots.COLOURS[1 if e["name"] == THEIRS else 0]
            axes.barh(y, e["median"], color=colour, alpha=0.4)
            axes.plot(e["rounds"], [y] * len(e["rounds"]), "o", color=colour, ms=4)
        axes.set_yticks(range(len(entries)), [e["name"] for e in entries])
        axes.set(xlabel="seconds")
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()


if __name__ == "__main__":
    cli.main(Config, run)
