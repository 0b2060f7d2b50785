"""Programs compiled for TPUs and GPUs that are not here: memory, products, collectives.

XLA compiles for a device that it only has the description of, and its answers are
facts: megabytes a chip, the products and their precision, what passes between chips in
a step, and which population is refused. Nothing is run. Seconds, kernels chosen by
tuning, and whether a binary runs are not known; the microseconds are a bound from the
makers' peaks, which no program can beat. TPUs need `pip install "ch4jax[aot]"`, GPUs
the wheels that docs/scaling.md names.
"""

import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jax.sharding import Mesh, Sharding
from jaxtyping import PyTree

from ch4jax import deep_mlp, house_prices, training
from ch4jax.house_prices import models
from ch4jax.training import Data, Metrics, MetricsFn, folds, population, sharding
from experiments.common import cli, linear_problem, roofline
from experiments.common.console import progress
from experiments.common.errors import UsageError
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.run_folder import RunFolder

GIB = 2**30
DEFAULTS = ("v5e:1x1", "v5e:2x4", "v5e:16x16", "v6e:1x1", "v5p:1x1x1")
DEFAULTS += ("h100:1", "h100:8")


class Chip(NamedTuple):
    """What a chip has: bytes for programs, and the makers' peaks, in 1/s.

    Attributes:
      memory: XLA refuses TPU programs that take more; of a GPU, all of it.
      flops: dense products in bfloat16.
      bandwidth: bytes from and to memory.
    """

    memory: float
    flops: float
    bandwidth: float


CHIPS = {
    "v5e": Chip(15.75 * GIB, 197e12, 819e9),
    "v6e": Chip(31.25 * GIB, 918e12, 1640e9),
    "v5p": Chip(95.74 * GIB, 459e12, 2765e9),
    "h100": Chip(84_942_979_072, 989e12, 3352e9),
}


def chip_of(target: str) -> Chip:
    """Return the chip of `v5e:2x2`."""
    return CHIPS[target.partition(":")[0]]


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the examination."""

    platform: cli.OptionalStr = "cpu"
    """Where the compiler runs."""
    targets: tuple[str, ...] = DEFAULTS
    """Chips: v5e, v6e or v5p with a shape of two or three sizes, or h100:NUMBER."""
    population: bool = True
    """Search the largest population that fits v5e too."""

    def __post_init__(self) -> None:
        """Check the targets, and that their compilers are here."""
        super().__post_init__()
        for target in self.targets:
            if not re.fullmatch(
                r"v5e:\d+x\d+|v6e:\d+x\d+|v5p:\d+x\d+x\d+|h100:\d+", target
            ):
                raise UsageError(
                    "--targets must be such as v5e:2x2, v6e:1x1, v5p:2x2x1 or h100:8, "
                    f"got {target}"
                )
            gpu = target.startswith("h100")
            if not importlib.util.find_spec("jax_cuda12_plugin" if gpu else "libtpu"):
                missing = (
                    "jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12"
                    if gpu
                    else 'libtpu: pip install "ch4jax[aot]"'
                )
                raise UsageError(f"--targets {target} needs {missing}")


def run(config: Config) -> None:
    """Compile every program for every target; print and write the table."""
    folder = RunFolder.create("aot", config)
    rows, largest = [], []
    with progress("compiled", len(config.targets)) as done:
        for target in config.targets:
            mesh = mesh_of(target)
            every = target == config.targets[0]
            found = [examine(p, target, mesh) for p in programs(mesh, every=every)]
            folder.table(COLUMNS, [cells(row) for row in found], target)
            rows += found
            if config.population and target.startswith("v5e"):
                largest.append(largest_population(target, mesh, largest))
            done(target)
    if largest:
        numbers = [
            [f"{row[k]:,.0f}" for k in ("each", "refused", "mb")] for row in largest
        ]
        folder.table(
            ["", "members a chip", "refused at", "MB a chip"],
            [
                [row["target"], *line]
                for row, line in zip(largest, numbers, strict=True)
            ],
            "the largest population of dropout MLPs that fits",
        )
    summary = {"programs": rows, "largest": largest, "seconds": folder.seconds()}
    folder.finish(
        summary,
        headline=f"{len(rows)} programs compiled for {len(config.targets)} targets; "
        "none was run.",
    )


def mesh_of(target: str) -> Mesh:
    """Return the chips of a target, none of which is here."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    kind, _, shape = target.partition(":")
    if kind == "h100":
        description = Path(__file__).with_name("h100.txtpb").read_text()
        described = topologies.get_topology_desc(
            "", "cuda", topology=f"1x1x{shape}", target_config=description
        )
    else:
        one = math.prod(map(int, shape.split("x"))) == 1
        bounds = {"chips_per_host_bounds": (1, 1, 1)} if one else {}
        described = topologies.get_topology_desc(target, "tpu", **bounds)
    return Mesh(np.asarray(described.devices), (sharding.AXIS,))


class Program(NamedTuple):
    """A jitted function with the shapes, and the places, of its arguments.

    Attributes:
      name: what it does.
      jitted: the function.
      args: its arguments; arrays are `jax.ShapeDtypeStruct`.
      kwargs: its named arguments.
      flops: of the products of a step, by hand; None if nobody counted.
      bytes: that a step has to read and write: its state.
    """

    name: str
    jitted: jax.stages.Wrapped
    args: tuple[PyTree, ...]
    kwargs: dict[str, PyTree]
    flops: float | None = None
    bytes: float | None = None


def shapes(placed: Sharding, make: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Return the shapes of what a function returns, all placed alike."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        jax.eval_shape(make, *args),
    )


def images(rows: int) -> Data:
    """Return Fashion-MNIST as zeros."""
    return jnp.zeros((rows, 28, 28), jnp.uint8), jnp.zeros(rows, jnp.uint8)


def training_program(
    name: str,
    init: Callable[..., PyTree],
    metrics: MetricsFn,
    mesh: Mesh,
    members: int = 1,
    flops: float | None = None,
    rows: int = 60_000,
) -> Program:
    """Return an epoch on so many images: members along the chips, or else the rows."""
    divided = members % mesh.size == 0
    optimizer, whole = optax.sgd(0.5), sharding.whole(mesh)
    placed = sharding.along(mesh, 0) if divided else whole
    keys = shapes(placed, partial(population.seed_keys, 0, members))
    start = shapes(
        placed, lambda k: population.init_states(jax.vmap(init)(k), optimizer), keys
    )
    given = {
        "metrics_fn": metrics if divided else sharding.by_rows(metrics, mesh),
        "optimizer": optimizer,
        "batch_size": 256,
        "keys": keys,
    }
    chips = mesh.size if divided else 1
    size = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start.params)
    )
    args = (start, shapes(whole, partial(images, rows)))
    return Program(name, population.train_epoch, args, given, flops, 2 * size / chips)


def dropout_program(mesh: Mesh, members: int = 1) -> Program:
    """Return an epoch of one dropout MLP or of a population."""
    network = flax_network((256, 256), (0.2, 0.5), 0.01)
    name = f"population of {members:,}" if members > 1 else "dropout MLP"
    flops = roofline.floating_point_operations(256) * members / mesh.size
    return training_program(
        name, network.init, metrics_fn(network), mesh, members, flops
    )


def programs(mesh: Mesh, *, every: bool) -> Iterator[Program]:
    """Yield what the package compiles: an epoch, and if `every`, folds and grids."""
    yield dropout_program(mesh)
    yield dropout_program(mesh, 1024)
    if mesh.size > 1 or every:
        yield deep_program(mesh)
    if not every:
        return
    whole, many = sharding.whole(mesh), sharding.along(mesh, 0)
    problems = shapes(whole, partial(linear_problem.grid_problems, 0, 32))
    lambdas = shapes(many, lambda: jnp.zeros(1024))
    grid = linear_problem.grid_program("scratch")
    yield Program("weight decay, 32,768 runs", grid, (problems, lambdas), {})
    rows = 1460
    in_training = folds.k_fold(rows, 5)
    mask = shapes(whole, lambda: jnp.asarray(in_training))
    keys = shapes(
        sharding.along(mesh, 1),
        lambda: jax.random.split(jax.random.key(0), (5, 8 * mesh.size)),
    )
    count = f"{8 * 5 * 8 * mesh.size:,}"

    def sizes(batch_size: int) -> dict[str, int]:
        steps = folds.steps_per_epoch(in_training, batch_size)
        return {"epochs": 100, "batch_size": batch_size, "steps": steps}

    linear = house_prices.Setting(*shapes(whole, lambda: (jnp.zeros(8),) * 2))
    x, prices = shapes(whole, lambda: (jnp.zeros((rows, 331)), jnp.zeros(rows)))
    kwargs = {**sizes(64), "keys": keys}
    args = (linear, x, prices, mask)
    name = f"house prices, {count} linear"
    yield Program(name, house_prices.train_linear, args, kwargs)
    setting = models.Setting(*shapes(whole, lambda: (jnp.zeros(8),) * 3))
    x = shapes(whole, lambda: jnp.zeros((5, rows, 331)))
    kwargs = {**sizes(128), "keys": keys}
    args = (models.Architecture(), setting, x, prices, mask)
    yield Program(f"house prices, {count} MLPs", models.train, args, kwargs)


def deep_program(mesh: Mesh) -> Program:
    """Return an epoch of thirty layers, whose rows the chips share."""
    he = jax.nn.initializers.he_normal()
    architecture = deep_mlp.Architecture(jax.nn.relu)

    def metrics(
        params: deep_mlp.Params, x: jax.Array, labels: jax.Array, *, key: PyTree
    ) -> Metrics:
        logits, _ = deep_mlp.apply(params, x / 255, architecture)
        return training.classification_metrics(logits, labels)

    def init(key: jax.Array) -> deep_mlp.Params:
        return deep_mlp.init_params(784, 64, 30, 10, he, key=key)

    return training_program("thirty layers", init, metrics, mesh)


def compile(program: Program) -> jax.stages.Compiled:
    """Compile a program for the chips that its arguments are placed on.

    Raises:
      JaxRuntimeError: among other reasons, if a TPU's memory is too small.
    """
    return program.jitted.lower(*program.args, **program.kwargs).compile()


def examine(program: Program, target: str, mesh: Mesh) -> dict[str, Any]:
    """Return what the compiler knows of a program; `refused` if it does not fit."""
    chip = chip_of(target)
    row = {
        "label": f"{target}, {program.name}",
        "target": target,
        "program": program.name,
        "chips": mesh.size,
        "memory_mb": chip.memory / 1e6,
        "flops_by_hand": program.flops,
    }
    try:
        compiled = compile(program)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {"refused": str(error).partition("\n")[0]}
    text = compiled.as_text() or ""
    found = products(text)
    passed = collectives(text)
    bound = None
    if program.flops and program.bytes:
        seconds = max(program.flops / chip.flops, program.bytes / chip.bandwidth)
        bound = seconds * 1e6
    return row | {
        "mb": peak_mb(compiled),
        "flops": sum(flops for flops, _ in found),
        "precision": dict(Counter(precision for _, precision in found)),
        "collectives": sum(count for count, _ in passed),
        "collective_bytes": sum(count * size for count, size in passed),
        "bound_microseconds": bound,
    }


def peak_mb(compiled: jax.stages.Compiled) -> float:
    """Return megabytes a chip: arguments, results that are not donated, and scratch."""
    usage = compiled.memory_analysis()
    assert usage is not None  # TPUs and GPUs have one
    results = usage.output_size_in_bytes - usage.alias_size_in_bytes
    whole = usage.argument_size_in_bytes + results + usage.temp_size_in_bytes
    return whole / 1e6


def size_of(shape: str) -> int:
    """Return the entries of `256,10`."""
    return math.prod(map(int, filter(None, shape.split(","))))


def products(text: str) -> list[tuple[float, str]]:
    """Return FLOP and precision of every matrix product in a compiled program.

    XLA writes a product as `dot`, on a TPU as `convolution`, and on a GPU also as a
    call of cuBLAS; the precision is `highest`, `default`, or a dtype below float32.
    """
    defined = dict(re.findall(r"%([\w.-]+) = \(?(\w+\[[\d,]*\])", text))
    found = []
    for line in text.splitlines():
        match = re.search(
            r"= \(?\w+\[([\d,]*)\].*? (dot|convolution|custom-call)"
            r"\(%([\w.-]+), %([\w.-]+)",
            line,
        )
        if not match or (match[2] == "custom-call" and "gemm" not in line):
            continue
        result, kind, left, right = match.groups()
        (dtype, first), (_, second) = (
            defined[name].rstrip("]").split("[") for name in (left, right)
        )
        if kind == "convolution":
            labels = re.search(r"dim_labels=\w+_(\w+)->", line)
            contracted = [second.split(",")[labels[1].index("i")]] if labels else []
        else:
            dims = re.search(r'lhs_contracting_dim\w+"?[=:][{\[]([\d,"]*)', line)
            axes = re.findall(r"\d+", dims[1]) if dims else []
            contracted = [first.split(",")[int(axis)] for axis in axes]
        flops = 2.0 * size_of(result) * size_of(",".join(contracted))
        highest = re.search(r"(?i)operand_precision\W+highest", line)
        low = dtype not in ("f32", "f64")
        found.append((flops, dtype if low else "highest" if highest else "default"))
    return found


def collectives(text: str) -> list[tuple[int, int]]:
    """Return how often a step passes something on between chips, and its bytes.

    A step is the body of the outermost loop that passes anything; a loop inside it
    counts as often as it runs.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.-]+) \(", line):
            name = head[2]
            bodies[name], entry = [], name if head[1] else entry
        elif name:
            bodies[name].append(line)

    def inside(name: str, times: int) -> Iterator[tuple[int, int]]:
        for line in bodies.get(name, []):
            if loop := re.search(r"body=%([\w.-]+)", line):
                # XLA notes the trips of a GPU's loop; a TPU's compares with them.
                noted = re.findall(r"known_trip_count\D+(\d+)", line)
                condition = re.search(r"condition=%([\w.-]+)", line)
                lines = bodies.get(condition[1] if condition else "", [])
                bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "".join(lines))
                trips = max(map(int, noted or bounds), default=1)
                yield from inside(loop[1], times * trips)
            elif passed := re.search(
                r"= (.*?) (?:all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", line
            ):
                arrays = re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", passed[1])
                yield times, sum(int(bits) // 8 * size_of(s) for bits, s in arrays)

    loops = [re.search(r"body=%([\w.-]+)", line) for line in bodies.get(entry, [])]
    steps = [list(inside(loop[1], 1)) for loop in loops if loop]
    return max(steps, key=len, default=[])


def fits(target: str, mesh: Mesh, each: int) -> float | None:
    """Return the MB that so many members take of a chip, None if they do not fit."""
    try:
        found = peak_mb(compile(dropout_program(mesh, each * mesh.size)))
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return found if found <= chip_of(target).memory / 1e6 else None


def largest_population(
    target: str, mesh: Mesh, known: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Search by bisection, to a 32nd, how many members fit each chip, and do not.

    What is known of a chip is tried first for several of them.
    """
    memory = chip_of(target).memory / 1e6
    low, high = (known[0]["each"], known[0]["refused"]) if known else (1024, 0)
    best = fits(target, mesh, low)
    assert best is not None  # so many members fit each of the chips
    if not known:
        high = int(1.5 * low * memory / best)  # memory grows with the members
    elif fits(target, mesh, high):
        high *= 2
    while high - low > low // 32 + 1:
        middle = (low + high) // 2
        found = fits(target, mesh, middle)
        low, high = (middle, high) if found else (low, middle)
        best = found or best
    return {"target": target, "each": low, "refused": high, "mb": best}


COLUMNS = ("", "MB a chip", "of", "MFLOP a step", "by hand", "products", "collectives")
COLUMNS += ("bytes", "at least (us)")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row of the table."""
    if "refused" in row:
        return [row["program"], "refused", f"{row['memory_mb']:,.0f}", *"------"]
    return [
        row["program"],
        f"{row['mb']:,.1f}",
        f"{row['memory_mb']:,.0f}",
        f"{row['flops'] / 1e6:,.0f}",
        "-" if row["flops_by_hand"] is None else f"{row['flops_by_hand'] / 1e6:,.0f}",
        ", ".join(f"{n} {name}" for name, n in row["precision"].items()),
        str(row["collectives"]),
        f"{row['collective_bytes']:,}",
        "-"
        if row["bound_microseconds"] is None
        else f"{row['bound_microseconds']:.1f}",
    ]


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
