"""Programs compiled for TPUs and GPUs that are not here: memory, products, collectives.

XLA compiles for a device that it only has the description of, and its answers are
facts: megabytes a chip, the products and their precision, what passes between chips in
a step, and which population is refused. Nothing is run. Seconds, kernels chosen by
tuning, and whether a binary runs are not known; the microseconds are a bound from the
makers' peaks, which no program can beat. TPUs need `pip install -e ".[aot]"`, GPUs the
wheels that docs/scaling.md names.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

from ch4jax import training
from ch4jax.house_prices import models
from ch4jax.training import Data, MetricsFn, folds, population, sharding
from experiments.common import cli, linear_problem, roofline
from experiments.common.console import say
from experiments.common.errors import UsageError
from experiments.common.networks import flax_network, metrics_fn
from experiments.common.run_folder import RunFolder

Row = dict[str, Any]
DEFAULTS = "v5e:1x1 v5e:2x4 v5e:16x16 v6e:1x1 v5p:1x1x1 h100:1 h100:8"
COMPILERS = ("libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12")
LITTLE_EFFORT = {"exec_time_optimization_effort": -1.0}
# Bytes of a chip, which XLA refuses to exceed on a TPU; its maker's peak in bfloat16.
CHIPS = {
    "v5e": (15.75 * 2**30, 197e12),
    "v6e": (31.25 * 2**30, 918e12),
    "v5p": (95.74 * 2**30, 459e12),
    "h100": (84_942_979_072, 989e12),
}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the examination."""

    platform: cli.OptionalStr = "cpu"
    """Where the compiler runs."""
    targets: tuple[str, ...] = tuple(DEFAULTS.split())
    """Chips: v5e, v6e or v5p with a shape of two or three sizes, or h100:NUMBER. Every
    program is compiled for the first, one model for each, and the largest population
    for all chips of the first's kind."""

    def __post_init__(self) -> None:
        """Check the targets, and that their compilers are here."""
        super().__post_init__()
        for target in self.targets or ("none",):
            if not re.fullmatch(r"v[56]e:\d+x\d+|v5p:\d+x\d+x\d+|h100:\d+", target):
                raise UsageError(
                    "--targets must be such as v5e:2x2, v6e:1x1, v5p:2x2x1 or h100:8, "
                    f"got {target}"
                )
            gpu = target.startswith("h100")
            if not importlib.util.find_spec("jax_cuda12_plugin" if gpu else "libtpu"):
                of_tpu = 'libtpu: pip install -e ".[aot]"'
                missing = ", ".join(COMPILERS[1:]) if gpu else of_tpu
                raise UsageError(f"--targets {target} needs {missing}")


class Target(NamedTuple):
    """Chips that programs are compiled for, all of them in `mesh`."""

    name: str
    kind: str
    mesh: Mesh


def run(config: Config) -> None:
    """Compile every program for the first target, few for the others; show a table."""
    folder = RunFolder.create("aot", config)
    first, *others = targets = [target_of(name) for name in config.targets]
    alike = [target for target in others if target.kind == first.kind]
    jobs = [(t, p) for t in targets for p in programs(t.mesh, every=t is first)]
    with ThreadPoolExecutor(2) as pool:  # XLA compiles for a TPU in one thread
        search = pool.submit(lambda: list(largest_population(first)))
        examined = list(pool.map(examine, *zip(*jobs, strict=True)))
        fits = max((row["members"] for row in search.result() if row["mb"]), default=1)
        largest = [dropout_program(target.mesh, fits) for target in alike]
        rows = [*examined, *search.result(), *pool.map(examine, alike, largest)]
    columns = ["", "MB a chip", "GFLOP a step (by hand)", "products", "collectives"]
    columns += ["at least (us)"]
    for target in targets:
        chips = f"{target.mesh.size} of {CHIPS[target.kind][0] / 1e6:,.0f} MB"
        cells = [cells_of(row) for row in rows if row["target"] == target.name]
        folder.table(columns, cells, f"{target.name}: {chips}")
    found = importlib.metadata.distributions()
    compilers = {x.name: x.version for x in found if x.name in COMPILERS}
    folder.finish(
        {"programs": rows, "compilers": compilers},
        headline=f"{len(rows)} programs compiled for {len(targets)} targets; none ran.",
    )


def target_of(name: str) -> Target:
    """Return the chips of a target, none of which is here."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    kind, _, shape = name.partition(":")
    if kind == "h100":
        description = Path(__file__).with_name("h100.txtpb").read_text()
        described = topologies.get_topology_desc(
            "", "cuda", topology=f"1x1x{shape}", target_config=description
        )
    else:
        one = set(shape.split("x")) == {"1"}
        bounds = {"chips_per_host_bounds": (1, 1, 1)} if one else {}
        described = topologies.get_topology_desc(name, "tpu", **bounds)
    mesh = Mesh(np.asarray(described.devices), (sharding.AXIS,))
    return Target(name, kind, mesh)


class Program(NamedTuple):
    """What can be compiled.

    Attributes:
      name: what it does.
      lower: traces it, for shapes that say where they are placed.
      flops: of the products of a step on each chip, by hand; None if nobody counted.
      members: of the population on each chip; None if it is none.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    flops: float | None = None
    members: int | None = None


def shapes(placed: Sharding, make: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Return the shapes of what a function returns, all placed alike."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        jax.eval_shape(make, *args),
    )


def epoch(
    init: Callable[..., PyTree],
    metrics: MetricsFn,
    mesh: Mesh,
    members: int = 1,
    rows: int = 60_000,
) -> Callable[[], jax.stages.Lowered]:
    """Trace an epoch on so many images: the chips divide the members, or else rows."""
    divided = members % mesh.size == 0
    optimizer, whole = optax.sgd(0.5), sharding.whole(mesh)
    placed = sharding.along(mesh, 0) if divided else whole
    keys = shapes(placed, partial(population.seed_keys, 0, members))

    def start(keys: jax.Array) -> training.TrainState:
        return population.init_states(jax.vmap(init)(keys), optimizer)

    def images() -> Data:
        return jnp.zeros((rows, 28, 28), jnp.uint8), jnp.zeros(rows, jnp.uint8)

    return partial(
        population.train_epoch.lower,
        shapes(placed, start, keys),
        shapes(whole, images),
        metrics_fn=metrics if divided else sharding.by_rows(metrics, mesh),
        optimizer=optimizer,
        batch_size=256,
        keys=keys,
    )


def dropout_program(mesh: Mesh, each: int | None = None) -> Program:
    """Return an epoch of one dropout MLP, or of so many members on each chip."""
    network = flax_network((256, 256), (0.2, 0.5), 0.01)
    members = each * mesh.size if each else 1
    name = f"population of {members:,}" if each else "dropout MLP"
    flops = roofline.floating_point_operations(256) * members / mesh.size
    lower = epoch(network.init, metrics_fn(network), mesh, members)
    return Program(name, lower, flops, each)


def programs(mesh: Mesh, *, every: bool) -> Iterator[Program]:
    """Yield an epoch of the dropout MLP and, if `every`, a grid and all folds."""
    yield dropout_program(mesh)
    if not every:
        return
    whole, along = sharding.whole(mesh), sharding.along
    problems = shapes(whole, partial(linear_problem.grid_problems, 0, 32))
    lambdas = shapes(along(mesh, 0), lambda: jnp.zeros(1024))
    grid = linear_problem.grid_program("scratch")
    yield Program("weight decay, 32,768 runs", partial(grid.lower, problems, lambdas))
    rows, k, settings, seeds = 1460, 5, 8, 8 * mesh.size
    in_training = folds.k_fold(rows, k)
    keys = partial(jax.random.split, jax.random.key(0), (k, seeds))
    houses = partial(
        models.train.lower,
        models.Architecture(),
        models.Setting(*shapes(whole, lambda: (jnp.zeros((settings, k)),) * 3)),
        shapes(whole, lambda: jnp.zeros((k, rows, 331))),
        shapes(whole, lambda: jnp.zeros(rows)),
        shapes(whole, lambda: jnp.asarray(in_training)),
        epochs=100,
        batch_size=128,
        steps=folds.steps_per_epoch(in_training, 128),
        keys=shapes(along(mesh, 1), keys),
    )
    yield Program(f"house prices, {settings * k * seeds:,} MLPs", houses)


def examine(
    target: Target, program: Program, options: dict[str, Any] | None = None
) -> Row:
    """Return what the compiler, given its options, knows of a program.

    There is no `mb` if a chip has too little memory.
    """
    memory, peak = CHIPS[target.kind]
    row: Row = {
        "label": f"{target.name}, {program.name}",
        "target": target.name,
        "program": program.name,
        "chips": target.mesh.size,
        "members": program.members,
        "memory_mb": memory / 1e6,
        "flops_by_hand": program.flops,
        "bound_microseconds": program.flops and program.flops / peak * 1e6,
        "mb": None,
    }
    say(f"compiling for {row['label']}")
    try:
        compiled = program.lower().compile(options)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row
    usage = compiled.memory_analysis()
    assert usage is not None  # TPUs and GPUs have one
    results = usage.output_size_in_bytes - usage.alias_size_in_bytes  # if not donated
    size = usage.argument_size_in_bytes + results + usage.temp_size_in_bytes
    text = compiled.as_text() or ""
    found, passed = products(text), collectives(text)
    return row | {
        "mb": size / 1e6 if size <= memory else None,
        "flops": sum(flops for flops, _ in found),
        "precision": dict(Counter(precision for _, precision in found)),
        "collectives": sum(count for count, _ in passed),
        "collective_bytes": sum(count * size for count, size in passed),
    }


def size_of(shape: str) -> int:
    """Return the entries of `256,10`."""
    return math.prod(map(int, filter(None, shape.split(","))))


def products(text: str) -> list[tuple[float, str]]:
    """Return FLOP and precision of every matrix product in a compiled program.

    XLA writes a product as `dot`, on a TPU as `convolution`, and on a GPU also as a
    call of cuBLAS; the precision is `highest`, `default`, or a dtype below float32.
    """
    types = dict(re.findall(r"%([\w.-]+) = \(?(\w+\[[\d,]*)\]", text))
    found = []
    for result, left, right, rest in re.findall(
        r"= \(?\w+\[([\d,]*)\].*? (?:dot|convolution|custom-call)"
        r"\(%([\w.-]+), %([\w.-]+)(.*)",
        text,
    ):
        dtype, of_left = types[left].split("[")
        if labels := re.search(r"dim_labels=\w+_(\w+)->", rest):
            _, of_right = types[right].split("[")
            contracted = of_right.split(",")[labels[1].index("i")]
        elif axes := re.search(r'lhs_contracting_dim\w+"?[=:][{\[]([\d,"]*)', rest):
            sizes = of_left.split(",")
            contracted = ",".join(sizes[int(i)] for i in re.findall(r"\d+", axes[1]))
        else:
            continue
        highest = re.search(r"(?i)operand_precision\W+highest", rest)
        low = dtype not in ("f32", "f64")
        precision = dtype if low else "highest" if highest else "default"
        found.append((2.0 * size_of(result) * size_of(contracted), precision))
    return found


def collectives(text: str) -> list[tuple[int, int]]:
    """Return how often a step passes something on between chips, and its bytes.

    A step is the body of the outermost loop that passes anything; a loop inside it
    counts as often as it runs.
    """
    computation = r"^(?:ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}"
    bodies = dict(re.findall(computation, text, re.MULTILINE | re.DOTALL))

    def inside(name: str, times: int) -> Iterator[tuple[int, int]]:
        for line in bodies[name].splitlines():
            if loop := re.search(r"condition=%([\w.-]+), body=%([\w.-]+)", line):
                # XLA notes the trips of a GPU's loop; a TPU's compares with them.
                compared = re.findall(r"s32\[\]\S* constant\((\d+)\)", bodies[loop[1]])
                trips = re.findall(r"known_trip_count\D+(\d+)", line) or compared
                yield from inside(loop[2], times * max(map(int, trips), default=1))
            elif passed := re.search(
                r"= (.*?) (?:all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", line
            ):
                arrays = re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", passed[1])
                yield times, sum(int(bits) // 8 * size_of(s) for bits, s in arrays)

    entry = re.findall(r"^ENTRY %([\w.-]+)", text, re.MULTILINE)
    loops = re.findall(r"body=%([\w.-]+)", bodies[entry[0]]) if entry else []
    return max((list(inside(loop, 1)) for loop in loops), key=len, default=[])


def largest_population(target: Target) -> Iterator[Row]:
    """Yield ever closer populations, until one that is an eighth larger does not fit.

    Memory grows with the members: the next is what a line through zero and the largest
    that fits says, or the middle between that and the smallest that does not. XLA makes
    little effort, for a third of the time. With its usual effort it refuses a program
    that would just fit, so a twentieth of the memory is left.
    """
    low, high, most, number = 0, math.inf, 0, 1024
    while high - low > low // 8 + 1:
        row = examine(target, dropout_program(target.mesh, number), LITTLE_EFFORT)
        yield row
        if row["mb"] is None:
            high = number
        else:
            low, most = number, int(number * 0.95 * row["memory_mb"] / row["mb"])
        number = max(most, low + low // 8)
        if number >= high:
            number = (low + int(high)) // 2


def cells_of(row: Row) -> list[str]:
    """Return a row of the table."""
    if row["mb"] is None:
        return [row["program"], "refused", *"----"]
    by_hand, bound = row["flops_by_hand"], row["bound_microseconds"]
    sums = f"{row['collectives']} of {row['collective_bytes'] / 1e6:.1f} MB"
    return [
        row["program"],
        f"{row['mb']:,.0f}",
        f"{row['flops'] / 1e9:,.4g}" + (f" ({by_hand / 1e9:,.4g})" if by_hand else ""),
        ", ".join(f"{n} {name}" for name, n in row["precision"].items()),
        sums if row["collectives"] else "none",
        f"{bound:,.1f}" if bound else "-",
    ]


if __name__ == "__main__":
    cli.main(Config, run)
