"""Where the time goes: against PyTorch, and against what the machine can do.

First the bandwidth of memory and the dispatch of an empty step are measured. Then come
the matrix products of an epoch at their own shapes, and the same work done by PyTorch
and by JAX, all rows in turn, round after round, so that a machine that drifts hurts all
alike. Rows with PyTorch need `pip install "ch4jax[torch]"`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from ch4jax import house_prices
from ch4jax.data import fashion_mnist
from ch4jax.training import folds
from experiments.benchmark import figures as benchmark_figures
from experiments.benchmark import rows as benchmark_rows
from experiments.benchmark import tables as tables
from experiments.benchmark.tables import FLOOR
from experiments.common import cli, timing, weight_decay_runs
from experiments.common import roofline as floors
from experiments.common.console import Report
from experiments.weight_decay import Config as WeightDecay


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the benchmark."""

    keep_programs: ClassVar[bool] = False

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
    return {
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.default_backend(),
        "processor": floors.processor(),
        "threads": floors.threads(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"]
        or "default",
    }


def measure_floors(rounds: int) -> dict[str, float]:
    """Return the bandwidth of memory and the cost of a dispatch."""
    calls = 1000
    works = {"copy": floors.copy(), "dispatches": floors.dispatches(calls)}
    timings = timing.interleave(works, rounds=max(3, rounds))
    return {
        "copy_gb_per_second": 2 * floors.COPIED_BYTES / timings["copy"].median / 1e9,
        "dispatch_microseconds": timings["dispatches"].median / calls * 1e6,
    }


def works(config: Config, data: Any, not_run: list[dict[str, str]]) -> Iterator[Any]:
    """Yield every row that can run here; add the others to `not_run`."""
    num_rows = len(data.train_images)
    products = floors.matrix_products(num_rows)
    yield benchmark_rows.Work(
        benchmark_rows.DROPOUT, FLOOR, products, num_rows, "images"
    )
    tables = house_prices.read("shipped")
    encoded = house_prices.encode(tables.train, tables.test)
    houses = (
        encoded.train.astype(np.float32),
        tables.train["SalePrice"].to_numpy(np.float32),
        folds.k_fold(len(encoded.train), 5),
    )
    yield from torch_works(config, data, houses, not_run)
    yield from benchmark_rows.dropout_rows(data.on_device())
    yield from benchmark_rows.sweep_rows()
    yield from benchmark_rows.house_rows(*houses)
    if machine()["platform"] == "cpu":
        reason = "there is none on this machine: --platform gpu, --platform tpu"
        not_run.append({"name": "GPU and TPU", "reason": reason})


def torch_works(
    config: Config, data: Any, houses: Any, not_run: list[dict[str, str]]
) -> Iterator[Any]:
    """Yield PyTorch's rows, on a device of the kind that JAX computes on."""
    everything = "every row of PyTorch"
    try:
        import torch
    except ModuleNotFoundError:
        reason = 'PyTorch is not installed: pip install "ch4jax[torch]"'
        not_run.append({"name": everything, "reason": reason})
        return
    from experiments.pytorch import rows

    device = rows.device_for(jax.default_backend())
    if device is None:
        reason = f"PyTorch {torch.__version__} has no {jax.default_backend()} here"
        not_run.append({"name": everything, "reason": reason})
        return
    torch.set_num_threads(floors.threads())
    torch.manual_seed(config.seed)
    key = jax.random.key(config.seed)
    problem = weight_decay_runs.draw_problem(WeightDecay(), key=key)
    yield from rows.dropout_rows(data, device, compile=not config.quick)
    yield from rows.sweep_rows(problem.train_data, device)
    yield from rows.house_rows(*houses, device=device)
    if config.quick:
        not_run.append({"name": "PyTorch, torch.compile", "reason": "--quick"})


def run(config: Config, report: Report) -> None:
    """Measure the floors, time every row, print the tables, draw, write."""
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
    rows = [tables.row(w, t) for w, t in zip(todo, timings.values(), strict=True)]
    tables.relate(rows)
    products = rows[0]["median"]
    found_floors |= {
        "products_seconds": products,
        "products_gflops": floors.floating_point_operations(num_rows) / products / 1e9,
    }
    tables.show(rows, report)
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
    (report.folder / "benchmark.md").write_text(tables.markdown(rows))
    benchmark_figures.draw(rows, found, report.folder)
    report.finish(content)


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
