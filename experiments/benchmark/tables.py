"""The tables of `experiments.benchmark`: each row beside the floor and PyTorch."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from experiments.benchmark.rows import FLOOR, UNITS, Work
from experiments.common import roofline
from experiments.common.console import say
from experiments.common.run_folder import RunFolder
from experiments.common.timing import Timing

COLUMNS = ("", "compile", "median", "fastest", "rate", "x floor", "x PyTorch", "MB")
Row = dict[str, Any]


def relate(works: Sequence[Work], timings: Sequence[Timing]) -> list[Row]:
    """Return the rows of the summary.

    `to_floor` is the time of a row over that of the floor, and `to_pytorch` its speed
    over that of PyTorch's fastest row of the system, one model or many, that multiplies
    in the same dtype; each for the same amount of work.
    """
    pairs = list(zip(works, timings, strict=True))
    rates = {(work.system, work.name): work.amount / t.median for work, t in pairs}
    rows = []
    for work, seconds in pairs:
        rate = rates[work.system, work.name]
        floor = rates.get((work.system, FLOOR))
        package = "torch" if work.name.startswith("PyTorch") else "jax"
        theirs = [
            rates[other.system, other.name]
            for other in works
            if (other.system, other.dtype) == (work.system, work.dtype)
            and other.name.startswith("PyTorch")
        ]
        rows.append(
            {
                "system": work.system,
                "name": work.name,
                "compile": work.compile,
                **seconds._asdict(),
                "throughput": rate,
                "unit": f"{UNITS[work.system]}/s",
                "peak_memory_mb": work.memory_mb,
                "to_floor": floor and floor / rate,
                "to_pytorch": rate / max(theirs) if theirs else None,
                "dtype": work.dtype,
                "threads": roofline.threads(),
                "version": f"{package} {importlib.metadata.version(package)}",
            }
        )
    return rows


def by_system(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each system."""
    names = dict.fromkeys(row["system"] for row in rows)
    return {name: [row for row in rows if row["system"] == name] for name in names}


def short(value: float | None) -> str:
    """Return `-`, `0.0219`, `37.2` or `1,030`."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def show(rows: Sequence[Row], warning: str, folder: RunFolder) -> None:
    """Print a table for each system, with the warning in its title."""
    for system, group in by_system(rows).items():
        cells = [
            [
                row["name"],
                "-" if row["compile"] is None else f"{row['compile']:.2f}",
                f"{row['median']:.3f}",
                f"{row['fastest']:.3f}",
                short(row["throughput"]),
                "-" if row["to_floor"] is None else f"{row['to_floor']:.2f}",
                short(row["to_pytorch"]),
                short(row["peak_memory_mb"]),
            ]
            for row in group
        ]
        folder.table(COLUMNS, cells, f"{system}, {group[0]['unit']}{warning}")
    say(
        "compile, median and fastest of the rounds: seconds; rate: at the median; x "
        "floor: time, x PyTorch: speed, both at the median and for the same amount of "
        "work; MB: arrays of the compiled program"
    )


def headline(rows: Sequence[Row], warning: str) -> str:
    """Return the range of JAX's speed over PyTorch's, for each system."""
    ranges = []
    for system, group in by_system(rows).items():
        jax = [row["to_pytorch"] for row in group if row["name"].startswith("JAX")]
        if speeds := sorted(speed for speed in jax if speed is not None):
            ends = dict.fromkeys(map(short, (speeds[0], speeds[-1])))
            ranges.append(f"{' to '.join(ends)} ({system})")
    if not ranges:
        return "PyTorch was not timed."
    speeds = ", ".join(ranges)
    return f"Speed of JAX over that of PyTorch's fastest row: {speeds}{warning}."
