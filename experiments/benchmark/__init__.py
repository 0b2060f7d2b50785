"""Where the time goes: against PyTorch, and against what the machine can do.

First come the bandwidth of memory and the dispatch of an empty step; then the matrix
products of an epoch at their own shapes, and the same work done by PyTorch and by JAX,
all rows in turn, round after round, so that a drift of the machine slows all of them
alike. Rows with PyTorch need `pip install -e ".[torch]"`. If rounds differ too much, or
an epoch takes less than its matrix products, the machine was not quiet, and the tables
say so.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

import experiments.benchmark.dispatch as dispatch
import experiments.benchmark.figures as figures
import experiments.benchmark.rows as rows
import experiments.benchmark.tables as tables
from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.benchmark.rows import DROPOUT, FLOOR, Houses, Work
from experiments.common import cli, linear_problem, roofline, timing
from experiments.common.console import say
from experiments.common.run_folder import RunFolder


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the benchmark."""

    keep_programs: ClassVar[bool] = False

    rounds: cli.Count = 5
    """Rounds that are counted, after one that warms up."""
    quick: bool = False
    """One round on the shipped tenth, without torch.compile: under a minute."""
    data: cli.Source = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""


def run(config: Config) -> None:
    """Measure the floors, time every row, print the tables, draw, write."""
    data = fashion_mnist.load("mini" if config.quick else config.data)
    folder = RunFolder.create("benchmark", config)
    rounds = 1 if config.quick else config.rounds
    found = machine()
    say("\n".join(f"{name}: {value}" for name, value in found.items()))
    floors = measure_floors(rounds)
    say(
        f"\ncopying {floors['copy_gb_per_second']:.1f} GB/s; an empty step "
        f"{floors['dispatch_microseconds']:.0f} microseconds\n"
    )
    todo, not_run = works(config, data)
    timings = timing.interleave({w.label: w.run for w in todo}, rounds=rounds)
    measured = tables.relate(todo, list(timings.values()))
    num_rows, products = len(data.train_images), measured[0]["median"]
    operations = roofline.floating_point_operations(num_rows)
    floors["products_seconds"] = products
    floors["products_gflops"] = operations / products / 1e9
    bounded = {w.label: products for w in todo if w.has_floor}
    disturbed = timing.disturbances(timings, bounded)
    warning = f" ({timing.NOT_QUIET})" if disturbed else ""
    tables.show(measured, warning, folder)
    if disturbed:
        folder.table([timing.NOT_QUIET, "why"], [*disturbed.items()], num_texts=2)
    if rounds == 1:
        say("one round shows no spread: do not quote it")
    say(f"products alone: {floors['products_gflops']:.0f} GFLOP/s")
    for name, reason in not_run.items():
        say(f"not run: {name}: {reason}")
    headline = tables.headline(measured, warning)
    figures.draw(measured, headline, folder)
    summary = {
        "data": data.name,
        "images": num_rows,
        "machine": found,
        "floors": floors,
        "rows": measured,
        "not_run": [{"name": n, "reason": reason} for n, reason in not_run.items()],
        "quiet": not disturbed,
    }
    folder.finish(summary, headline=headline)


def machine() -> dict[str, Any]:
    """Return what the times depend on."""
    return {
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.default_backend(),
        "processor": roofline.processor(),
        "threads": roofline.threads(),
        "jax": jax.__version__,
        "matmul_precision": jax.config.values["jax_default_matmul_precision"]
        or "default",
    }


def measure_floors(rounds: int) -> dict[str, float]:
    """Return the bandwidth of memory and the cost of a dispatch."""
    works = {"copy": roofline.copy(), "dispatches": roofline.dispatches()}
    timings = timing.interleave(works, rounds=max(3, rounds))
    copy, dispatches = timings["copy"].median, timings["dispatches"].median
    return {
        "copy_gb_per_second": 2 * roofline.COPIED_BYTES / copy / 1e9,
        "dispatch_microseconds": dispatches / roofline.DISPATCHES * 1e6,
    }


def works(config: Config, data: FashionMNIST) -> tuple[list[Work], dict[str, str]]:
    """Return the rows that can run here, the floor first, and why others cannot."""
    houses = rows.read_houses()
    num_rows = len(data.train_images)
    products = roofline.matrix_products(num_rows)
    torch_rows, not_run = torch_works(config, data, houses)
    if jax.default_backend() == "cpu":
        reason = "there is none on this machine: --platform gpu, --platform tpu"
        not_run["GPU and TPU"] = reason
    return [
        Work(DROPOUT, FLOOR, products, num_rows),
        *torch_rows,
        *rows.dropout_rows(data),
        *rows.sweep_rows(),
        *rows.house_rows(houses),
        *rows.perceptron_rows(houses),
        *dispatch.rows(),
    ], not_run


def torch_works(
    config: Config, data: FashionMNIST, houses: Houses
) -> tuple[list[Work], dict[str, str]]:
    """Return PyTorch's rows, on the kind of device that JAX uses, and what is missing.

    Both use as many threads.
    """
    everything = "every row of PyTorch"
    if importlib.util.find_spec("torch") is None:
        reason = 'PyTorch is not installed: pip install -e ".[torch]"'
        return [], {everything: reason}
    import experiments.benchmark.torch_rows as theirs

    platform = jax.default_backend()
    device = theirs.device_for(platform, seed=config.seed)
    if device is None:
        version = theirs.torch.__version__
        return [], {everything: f"PyTorch {version} has no {platform} here"}
    problem = linear_problem.draw_problem(key=jax.random.key(config.seed))
    found = [
        *theirs.dropout_rows(data, device, compile=not config.quick),
        *theirs.sweep_rows(problem, device),
        *theirs.house_rows(houses, device),
        *theirs.perceptron_rows(houses, device, compile=not config.quick),
    ]
    return found, {"PyTorch, torch.compile": "--quick"} if config.quick else {}
