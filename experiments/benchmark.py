"""Where the time goes: against PyTorch, and against what the machine can do.

First the bandwidth of memory and the dispatch of an empty step are measured. Then come
the matrix products of an epoch at their own shapes, and the same work done by PyTorch
and by JAX, all rows in turn, round after round, so that a machine that drifts hurts all
alike. Rows with PyTorch need `pip install "ch4jax[torch]"`.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.console import Report

FLOOR = "matrix products alone"
REFERENCE = {
    "dropout MLP": "PyTorch, eager, in memory",
    "weight decay sweep": "PyTorch, one by one, SGD",
    "house prices": "PyTorch, fold by fold",
}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the benchmark."""

    rounds: int = 5
    """Rounds that are counted, after one that warms up."""
    quick: bool = False
    """One round on the shipped tenth, without torch.compile: under a minute."""
    data: str = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


def machine() -> dict[str, Any]:
    """Return what the times depend on."""
    import jax

    from experiments import floors

    cpu = Path("/proc/cpuinfo")
    names = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.partition(": ")[2] for line in names if "model name" in line]
    return {
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.default_backend(),
        "processor": models[0] if models else platform.processor(),
        "threads": floors.threads(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"]
        or "default",
    }


def measure_floors(rounds: int) -> dict[str, float]:
    """Return the bandwidth of memory and the cost of a dispatch."""
    from ch4jax import timing
    from experiments import floors

    calls = 1000
    works = {"copy": floors.copy(), "dispatches": floors.dispatches(calls)}
    timings = timing.interleave(works, rounds=max(3, rounds))
    return {
        "copy_gb_per_second": 2 * floors.COPIED_BYTES / timings["copy"].median / 1e9,
        "dispatch_microseconds": timings["dispatches"].median / calls * 1e6,
    }


def works(config: Config, data: Any, not_run: list[dict[str, str]]) -> Iterator[Any]:
    """Yield every row that can run here; add the others to `not_run`."""
    import numpy as np

    from ch4jax import folds, house_prices
    from experiments import bench_rows, floors, weight_decay_runs
    from experiments.weight_decay import Config as WeightDecay

    num_rows = len(data.train_images)
    products = floors.matrix_products(num_rows)
    yield bench_rows.Work(
        bench_rows.DROPOUT, FLOOR, products, num_rows, "images", None, None
    )
    tables = house_prices.read("shipped")
    encoded = house_prices.encode(tables.train, tables.test)
    houses = (
        encoded.train.astype(np.float32),
        tables.train["SalePrice"].to_numpy(np.float32),
        folds.k_fold(len(encoded.train), 5),
    )
    try:
        import torch
    except ModuleNotFoundError:
        reason = 'PyTorch is not installed: pip install "ch4jax[torch]"'
        not_run.append({"name": "every row of PyTorch", "reason": reason})
    else:
        from experiments.pytorch import rows

        torch.set_num_threads(floors.threads())
        torch.manual_seed(config.seed)
        problem = weight_decay_runs.draw_problem(WeightDecay(), config.seed)
        yield from rows.dropout_rows(data, compile=not config.quick)
        yield from rows.sweep_rows(problem.train_data)
        yield from rows.house_rows(*houses)
        if config.quick:
            not_run.append({"name": "PyTorch, torch.compile", "reason": "--quick"})
    yield from bench_rows.dropout_rows(data.on_device())
    yield from bench_rows.sweep_rows()
    yield from bench_rows.house_rows(*houses)
    if machine()["platform"] == "cpu":
        reason = "there is none on this machine: --platform gpu, --platform tpu"
        not_run.append({"name": "GPU and TPU", "reason": reason})


def run(config: Config, report: Report) -> None:
    """Measure the floors, time every row, print the tables, draw, write."""
    from ch4jax import timing
    from ch4jax.data import fashion_mnist
    from experiments import floors

    data = fashion_mnist.load("mini" if config.quick else config.data)
    report.begin(config)
    rounds = 1 if config.quick else config.rounds
    found = machine()
    report.say("\n".join(f"{name}: {value}" for name, value in found.items()))
    num_rows = len(data.train_images)
    found_floors = measure_floors(rounds)
    report.say(
        f"\ncopying {found_floors['copy_gb_per_second']:.1f} GB/s; an empty step "
        f"{found_floors['dispatch_microseconds']:.0f} microseconds\n"
    )
    not_run: list[dict[str, str]] = []
    todo = list(works(config, data, not_run))
    timings = timing.interleave(
        {f"{w.system}: {w.name}": w.run for w in todo}, rounds=rounds
    )
    rows = [row(w, t) for w, t in zip(todo, timings.values(), strict=True)]
    relate(rows)
    products = rows[0]["median"]
    found_floors |= {
        "products_seconds": products,
        "products_gflops": floors.floating_point_operations(num_rows) / products / 1e9,
    }
    show(rows, report)
    report.say(f"products alone: {found_floors['products_gflops']:.0f} GFLOP/s")
    for entry in not_run:
        report.say(f"not run: {entry['name']}: {entry['reason']}")
    content = {
        "data": data.name,
        "images": num_rows,
        "machine": found,
        "floors": found_floors,
        "rows": rows,
        "not_run": not_run,
        "seconds": report.seconds(),
    }
    report.write_json("benchmark.json", content)
    (report.folder / "benchmark.md").write_text(markdown(rows))
    draw(rows, found, report)
    report.finish(content)


def row(work: Any, timing: Any) -> dict[str, Any]:
    """Return what is kept of a row."""
    return {
        "system": work.system,
        "name": work.name,
        "compile": work.compile,
        **timing._asdict(),
        "throughput": work.amount / timing.median,
        "unit": f"{work.unit}/s",
        "peak_memory_mb": work.memory,
    }


def relate(rows: list[dict[str, Any]]) -> None:
    """Add to each row its time over that of the floor, and its speed over PyTorch's."""
    rate = {(r["system"], r["name"]): r["throughput"] for r in rows}
    for r in rows:
        floor = rate.get((r["system"], FLOOR))
        eager = rate.get((r["system"], REFERENCE[r["system"]]))
        r["to_floor"] = floor and floor / r["throughput"]
        r["to_pytorch"] = eager and r["throughput"] / eager


def cells(r: dict[str, Any]) -> list[str]:
    """Return a row as text."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else f"{value:{form}}"

    return [
        r["name"],
        number(r["compile"], ".2f"),
        f"{r['median']:.3f}",
        f"{r['fastest']:.3f}-{r['slowest']:.3f}",
        f"{r['throughput']:,.0f}",
        number(r["to_floor"], ".2f"),
        number(r["to_pytorch"], ".1f"),
        number(r["peak_memory_mb"], ",.0f"),
    ]


COLUMNS = (
    *("", "compile", "median", "spread (s)"),
    *("rate", "x floor", "x PyTorch", "MB"),
)


def by_system(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each system."""
    names = dict.fromkeys(r["system"] for r in rows)
    return {name: [r for r in rows if r["system"] == name] for name in names}


def show(rows: list[dict[str, Any]], report: Report) -> None:
    """Print a table for each system."""
    for system, group in by_system(rows).items():
        title = f"{system}, {group[-1]['unit']}"
        report.table(COLUMNS, [cells(r) for r in group], title=title)
    report.say(
        "compile, median, spread: seconds; x floor: time, x PyTorch: speed, each for "
        "the same amount of work; MB: arrays of the program; benchmark.json has more"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the tables for a README."""
    lines = []
    for system, group in by_system(rows).items():
        lines += [f"### {system}", "", f"| {' | '.join(COLUMNS)} |"]
        lines += ["|" + " --- |" * len(COLUMNS)]
        lines += [f"| {' | '.join(cells(r))} |" for r in group] + [""]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], found: dict[str, Any], report: Report) -> None:
    """Draw the speed of every row against PyTorch's, and the floor."""
    import numpy as np

    from experiments import plots

    groups = {
        system: [r for r in group if r["to_pytorch"] is not None]
        for system, group in by_system(rows).items()
    }
    groups = {system: group for system, group in groups.items() if group}
    if not groups:
        return
    sizes = [len(group) for group in groups.values()]
    with plots.figure(
        report.folder / "benchmark.png",
        len(groups),
        1,
        size=(8.5, 0.27 * sum(sizes) + 0.8 * len(groups)),
        title=f"speed, PyTorch eager = 1, on {found['processor']}, "
        f"{found['threads']} threads",
        height_ratios=sizes,
    ) as panels:
        for axes, (system, group) in zip(np.ravel(panels), groups.items(), strict=True):
            for y, r in enumerate(group):
                name, speed = r["name"], r["to_pytorch"]
                colour = plots.COLOURS[0 if name.startswith("JAX") else 1]
                if name == FLOOR:
                    colour = "grey"
                    axes.axvline(speed, color=colour, linestyle="--", linewidth=1)
                # From 1, since a bar on a logarithmic axis has no zero to start from.
                axes.plot([1, speed], [y, y], color=colour, linewidth=2)
                axes.plot(speed, y, color=colour, marker="o")
                axes.annotate(
                    f"{speed:,.3g}x" if speed < 100 else f"{speed:,.0f}x",
                    (speed, y),
                    xytext=(6, 0) if speed >= 1 else (-6, 0),
                    textcoords="offset points",
                    ha="left" if speed >= 1 else "right",
                    va="center",
                    fontsize=7,
                )
            axes.set_yticks(range(len(group)), [r["name"] for r in group])
            axes.set(xscale="log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.12, y=0.08)
            axes.set_title(system, fontsize=9, loc="left")
            axes.tick_params(labelsize=7)
            axes.invert_yaxis()


def main() -> None:
    """Run from the command line; what is timed is compiled here, not cached."""
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
    cli.main(Config, run)


if __name__ == "__main__":
    main()
