"""How time and memory grow with batch, width, rows and population.

One epoch of the dropout MLP, scanned, beside its matrix products: each of the four
sizes is changed in turn while the others stay. Memory is what the compiled program
takes for its arguments, results and scratch. A GPU or TPU gets sizes that fill it, and
is timed beside the CPU at the CPU's own sizes, to find from which it is faster.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import optax
from jaxtyping import PyTree

from ch4jax.training import population
from experiments.common import cli, console, plots, roofline, setup, timing
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.run_folder import RunFolder


class Setting(NamedTuple):
    """The sizes of an epoch."""

    batch_size: int = 256
    width: int = 256
    rows: int = 4096
    population: int = 1


BASE = Setting()
AXES = {
    "batch size": (16, 64, 256, 1024, 4096),
    "width": (32, 64, 128, 256, 512, 1024),
    "rows": (1024, 4096, 16384, 65536),
    "population": (1, 4, 16, 64),
}
# Of a GPU or TPU, which only large sizes fill.
LARGE_BASE = Setting(rows=65536)
LARGE_AXES = {
    "batch size": (256, 1024, 4096, 16384, 65536),
    "width": (256, 1024, 4096, 8192),
    "rows": (16384, 65536, 262144),
    "population": (1, 16, 256, 4096),
}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the measurement."""

    keep_programs: ClassVar[bool] = False

    rounds: cli.Count = 5
    """Rounds that are counted, after one that warms up."""
    quick: bool = False
    """Three points on each axis instead of all."""


class Point(NamedTuple):
    """One epoch at one size.

    Attributes:
      axis: which size was changed: batch size, width, rows or population.
      size: what it was changed to.
      seconds: of an epoch, the median.
      fastest: seconds of the fastest epoch.
      floor_seconds: of its matrix products alone, the median.
      memory_mb: arguments, results and scratch of the program, None if unknown.
      compile_seconds: tracing and compiling.
    """

    axis: str
    size: int
    seconds: float
    fastest: float
    floor_seconds: float
    memory_mb: float | None
    compile_seconds: float


def run(config: Config) -> None:
    """Measure every point, print, draw, write."""
    folder = RunFolder.create("growth", config)
    cpu = jax.default_backend() == "cpu"
    base, axes = (BASE, AXES) if cpu else (LARGE_BASE, LARGE_AXES)
    settings = settings_of(base, axes, config.quick)
    points, disturbed = measure(settings, config.rounds)
    for point in points:
        folder.metrics(**point._asdict())
    warning = f" ({timing.NOT_QUIET})" if disturbed else ""
    ratios = [p.seconds / p.floor_seconds for p in points]
    columns = ["", "size", "epoch (s)", "fastest", "products (s)", "x floor", "MB"]
    cells = [
        [
            p.axis,
            f"{p.size:,}",
            *(f"{seconds:.4f}" for seconds in (p.seconds, p.fastest, p.floor_seconds)),
            f"{ratio:.2f}",
            "-" if p.memory_mb is None else f"{p.memory_mb:,.1f}",
        ]
        for p, ratio in zip(points, ratios, strict=True)
    ]
    folder.table(columns, cells, f"an epoch of the dropout MLP{warning}")
    if disturbed:
        folder.table([timing.NOT_QUIET, "why"], [*disturbed.items()], num_texts=2)
    draw(points, base, warning, folder)
    crossed, spread = ({}, False) if cpu else beside_the_cpu(config, folder)
    summary = {
        "base": {name.replace("_", " "): size for name, size in base._asdict().items()},
        "points": [p._asdict() for p in points],
        "faster_than_cpu_from": crossed,
        "quiet": not (disturbed or spread),
    }
    folder.finish(
        summary,
        headline=f"An epoch takes {min(ratios):.2f} to {max(ratios):.2f} times as long "
        f"as its matrix products alone{warning}.",
    )


def settings_of(
    base: Setting, axes: Mapping[str, Sequence[int]], quick: bool
) -> dict[tuple[str, int], Setting]:
    """Return the setting of every axis and size; if `quick`, of three sizes an axis."""
    return {
        (axis, size): base._replace(**{axis.replace(" ", "_"): size})
        for axis, sizes in axes.items()
        for size in (sizes[::2][:3] if quick else sizes)
    }


def beside_the_cpu(
    config: Config, folder: RunFolder
) -> tuple[dict[str, int | None], bool]:
    """Time the CPU's sizes on this device and on the CPU.

    Returns:
      Their `crossovers`, and whether they must not be quoted.
    """
    settings = settings_of(BASE, AXES, config.quick)
    here, disturbed = measure(settings, config.rounds)
    with setup.on_cpu():
        there, on_cpu = measure(settings, config.rounds)
    columns = ["", "size", f"{jax.default_backend()} (s)", "CPU (s)"]
    cells = [
        [a.axis, f"{a.size:,}", f"{a.seconds:.4f}", f"{b.seconds:.4f}"]
        for a, b in zip(here, there, strict=True)
    ]
    spread = bool(disturbed or on_cpu)
    warning = f" ({timing.NOT_QUIET})" if spread else ""
    folder.table(columns, cells, f"the same epoch on two devices{warning}")
    return crossovers(here, there), spread


def crossovers(here: Sequence[Point], there: Sequence[Point]) -> dict[str, int | None]:
    """Return the size of each axis from which `here` is always faster, None if none.

    >>> slow, fast = (Point("rows", 64, s, s, s, None, s) for s in (2.0, 1.0))
    >>> crossovers([slow, fast._replace(size=128)], [fast, slow._replace(size=128)])
    {'rows': 128}
    """
    found: dict[str, int | None] = {}
    for ours, theirs in zip(here, there, strict=True):
        if ours.seconds >= theirs.seconds:
            found[ours.axis] = None
        elif found.get(ours.axis) is None:
            found[ours.axis] = ours.size
    return found


def epoch(setting: Setting) -> tuple[Callable[[], PyTree], float | None, float]:
    """Return an epoch on random images, its memory, and the seconds to compile it."""
    network = flax_network((setting.width,) * 2, (0.2, 0.5), 0.01)
    optimizer = optax.sgd(0.1)
    image_key, label_key, init_key, key = jax.random.split(jax.random.key(0), 4)
    images = jax.random.bits(image_key, (setting.rows, 28, 28), "uint8")
    labels = jax.random.randint(label_key, (setting.rows,), 0, 10)
    params = jax.vmap(network.init)(jax.random.split(init_key, setting.population))
    arguments = (population.init_states(params, optimizer), (images, labels))
    keys = jax.random.split(key, setting.population)
    given = {"metrics_fn": metrics_fn(network), "optimizer": optimizer}
    train = partial(population.train_epoch, **given, batch_size=setting.batch_size)
    program, seconds = timing.compile(jax.jit(train), *arguments, keys=keys)
    memory = roofline.program_mb(program)
    return lambda: program(*arguments, keys=keys), memory, seconds


def measure(
    settings: Mapping[tuple[str, int], Setting], rounds: int
) -> tuple[list[Point], dict[str, str]]:
    """Compile an epoch and its products at every size, then time them all in turn.

    Returns:
      The points, and why some of them must not be quoted (`timing.disturbances`).
    """
    works: dict[tuple[int, ...], Callable[[], PyTree]] = {}
    compiled: dict[Setting, tuple[float | None, float]] = {}
    with console.progress("compiled", len(settings)) as done:
        for (axis, size), setting in settings.items():
            if setting not in compiled:  # the axes cross at BASE
                works[setting], memory, seconds = epoch(setting)
                compiled[setting] = memory, seconds
                # Without the population: they are the same for every member.
                works[setting[:3]] = roofline.matrix_products(
                    setting.rows, width=setting.width, batch_size=setting.batch_size
                )
            done(f"{axis} {size}")
    timings = timing.interleave(works, rounds=rounds)
    points, named, floors = [], {}, {}
    for (axis, size), setting in settings.items():
        found, products = timings[setting], timings[setting[:3]]
        floor = products.median * setting.population
        points.append(
            Point(axis, size, found.median, found.fastest, floor, *compiled[setting])
        )
        name = f"{axis} {size:,}"
        named |= {name: found, f"{name}, products": products}
        if setting.population == 1:  # one product may serve all members
            floors[name] = floor
    return points, timing.disturbances(named, floors)


def draw(
    points: Sequence[Point], base: Setting, warning: str, folder: RunFolder
) -> None:
    """Draw seconds above and megabytes below, on logarithmic axes."""
    lines = {p.axis: [q for q in points if q.axis == p.axis] for p in points}
    with folder.figure(
        "growth.png",
        2,
        len(lines),
        size=(10, 4.6),
        title="an epoch of the dropout MLP: time and memory against size "
        f"(others: batch 256, width 256, {base.rows:,} rows, one member){warning}",
        sharex="col",
        squeeze=False,
        caption="Time and memory of an epoch as one size grows; the dashed line is its "
        "matrix products alone.",
        alt="Two rows of four line charts on logarithmic axes: seconds above and "
        "megabytes below, against batch size, width, rows and population; dashed, the "
        "seconds of the matrix products.",
    ) as grid:
        for (axis, line), above, below in zip(lines.items(), *grid, strict=True):
            x = [p.size for p in line]
            floor = [p.floor_seconds for p in line]
            memory = [p.memory_mb or float("nan") for p in line]
            above.plot(x, [p.seconds for p in line], marker="o", label="epoch")
            above.plot(x, floor, color="grey", ls="--", label="its products")
            below.plot(x, memory, marker="o", color=plots.COLOURS[2])
            for axes in (above, below):
                axes.set(xscale="log", yscale="log")
                axes.tick_params(labelsize=7, which="both")
                plots.plain_numbers(axes.yaxis)
                axes.set_xticks(x, [f"{size:,}" for size in x])
                axes.set_xticks([], minor=True)
            below.set_xlabel(axis)
        grid[0][0].set_ylabel("seconds")
        grid[1][0].set_ylabel("MB")
        grid[0][0].legend(fontsize=7)


if __name__ == "__main__":
    cli.main(Config, run)
