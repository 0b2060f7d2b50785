"""How time and memory grow with batch, width, rows and population.

One epoch of the dropout MLP, scanned, beside its matrix products: each of the four
sizes is doubled in turn while the others stay. Memory is what the compiled program
takes for its arguments, results and scratch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from ch4jax.training import population
from experiments.common import cli, plots, timing
from experiments.common import roofline as floors
from experiments.common.console import Report
from experiments.common.networks import flax_network, metrics_fn

RATES = (0.2, 0.5)
BASE = {"batch size": 256, "width": 256, "rows": 4096, "population": 1}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the measurement."""

    keep_programs: ClassVar[bool] = False

    rounds: int = 5
    """Rounds that are counted, after one that warms up."""
    quick: bool = False
    """Three points on each axis instead of all."""

    def __post_init__(self) -> None:
        """Check what does not depend on the machine."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


class Point(NamedTuple):
    """One epoch at one size.

    Attributes:
      axis: what was changed: batch size, width, rows or population.
      size: what it was changed to.
      seconds: of an epoch, the median.
      floor_seconds: of its matrix products alone.
      memory_mb: arguments, results and scratch of the program.
      compile_seconds: tracing and compiling.
    """

    axis: str
    size: int
    seconds: float
    floor_seconds: float
    memory_mb: float | None
    compile_seconds: float


def sizes(quick: bool) -> dict[str, tuple[int, ...]]:
    """Return the sizes that each axis is tried at."""
    every = {
        "batch size": (16, 64, 256, 1024, 4096),
        "width": (32, 64, 128, 256, 512, 1024),
        "rows": (1024, 4096, 16384, 65536),
        "population": (1, 4, 16, 64),
    }
    return {
        axis: values[::2][:3] if quick else values for axis, values in every.items()
    }


def epoch(setting: dict[str, int]) -> tuple[Callable[[], Any], float | None, float]:
    """Return an epoch on random images, its memory, and the seconds to compile it."""
    network = flax_network((setting["width"],) * 2, RATES, 0.01)
    optimizer = optax.sgd(0.1)
    image_key, label_key, init_key, key = jax.random.split(jax.random.key(0), 4)
    rows, members = setting["rows"], setting["population"]
    images = jax.random.bits(image_key, (rows, 28, 28), "uint8")
    labels = jax.random.randint(label_key, (rows,), 0, 10)
    params = jax.vmap(network.init)(jax.random.split(init_key, members))
    arguments = (population.init_states(params, optimizer), (images, labels))
    keys = jax.random.split(key, members)
    program, seconds = timing.compile(
        population.train_epoch,
        *arguments,
        metrics_fn=metrics_fn(network),
        optimizer=optimizer,
        batch_size=setting["batch size"],
        keys=keys,
    )
    return lambda: program(*arguments, keys=keys), floors.program_mb(program), seconds


def measure(todo: list[tuple[str, int]], rounds: int, report: Report) -> list[Point]:
    """Compile an epoch and its products at every size, then time them all in turn."""
    settings = {(axis, size): BASE | {axis: size} for axis, size in todo}
    epochs: dict[str, Callable[[], Any]] = {}
    products: dict[str, Callable[[], Any]] = {}
    compiled = {}
    with report.progress("compiled", len(todo)) as done:
        for (axis, size), setting in settings.items():
            name = str(setting)
            if name not in epochs:  # where the axes cross, once is enough
                epochs[name], *compiled[name] = epoch(setting)
            products[products_of(setting)] = floors.matrix_products(
                setting["rows"],
                width=setting["width"],
                batch_size=setting["batch size"],
            )
            done(f"{axis} {size}")
    timings = timing.interleave(epochs | products, rounds=rounds)
    return [
        Point(
            *point,
            timings[str(setting)].median,
            timings[products_of(setting)].median * setting["population"],
            *compiled[str(setting)],
        )
        for point, setting in settings.items()
    ]


def products_of(setting: dict[str, int]) -> str:
    """Name the products of a setting, which are the same for every member."""
    return f"products of {setting | {'population': 1}}"


def run(config: Config, report: Report) -> None:
    """Measure every point, print, draw, write."""
    report.begin(config)
    axes = sizes(config.quick)
    todo = [(axis, size) for axis, line in axes.items() for size in line]
    points = measure(todo, config.rounds, report)
    for point in points:
        report.metrics(**point._asdict())
    report.table(
        ["axis", "size", "epoch (s)", "products (s)", "x floor", "memory (MB)"],
        [
            [
                p.axis,
                f"{p.size:,}",
                f"{p.seconds:.4f}",
                f"{p.floor_seconds:.4f}",
                f"{p.seconds / p.floor_seconds:.2f}",
                "-" if p.memory_mb is None else f"{p.memory_mb:,.1f}",
            ]
            for p in points
        ],
    )
    draw(points, report)
    report.finish(
        {
            "base": BASE,
            "points": [p._asdict() for p in points],
            "seconds": report.seconds(),
        }
    )


def draw(points: list[Point], report: Report) -> None:
    """Draw seconds above and megabytes below, on logarithmic axes."""
    axes_names = list(dict.fromkeys(p.axis for p in points))
    with plots.figure(
        report.folder / "growth.png",
        2,
        len(axes_names),
        size=(10, 4.6),
        title="an epoch of the dropout MLP: time and memory against size "
        "(others: batch 256, width 256, 4,096 rows, one member)",
        sharex="col",
        squeeze=False,
    ) as grid:
        for axis, above, below in zip(axes_names, *grid, strict=True):
            line = [p for p in points if p.axis == axis]
            x = [p.size for p in line]
            above.plot(x, [p.seconds for p in line], marker="o", label="epoch")
            above.plot(
                x,
                [p.floor_seconds for p in line],
                color="grey",
                linestyle="--",
                label="its products",
            )
            memory = [
                float("nan") if p.memory_mb is None else p.memory_mb for p in line
            ]
            below.plot(x, memory, marker="o", color=plots.COLOURS[2])
            for axes, label in ((above, "seconds"), (below, "MB")):
                axes.set(xscale="log", yscale="log")
                axes.tick_params(labelsize=7, which="both")
                plots.plain_numbers(axes.yaxis)
                axes.set_xticks(x, [f"{size:,}" for size in x])
                if axis == axes_names[0]:
                    axes.set_ylabel(label)
            below.set_xlabel(axis)
        grid[0][0].legend(fontsize=7)


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
