"""What limits speed on this machine: matrix products, memory and dispatch."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SIZES = ((784, 256), (256, 256), (256, 10))
BATCH_SIZE = 256
COPIED_BYTES = 2**28
DISPATCHES = 1000
Kernels = tuple[Float[Array, "inputs outputs"], ...]


def threads() -> int:
    """Return the cores that the process may use: the threads of XLA on a CPU."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, empty if it is unknown."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def matrix_products(
    num_rows: int, *, width: int = 256, batch_size: int = BATCH_SIZE
) -> Callable[[], Kernels]:
    """Return the products of an epoch: three forward, five backward, each step."""
    x_key, *keys = jax.random.split(jax.random.key(0), 4)
    sizes = ((784, width), (width, width), (width, 10))
    weights = tuple(map(jax.random.normal, keys, sizes))
    x = jax.random.normal(x_key, (8, batch_size, 784))
    steps = jnp.arange(-(-num_rows // batch_size)) % len(x)

    @jax.jit
    def products(weights: Kernels, x: Float[Array, "batches batch pixels"]) -> Kernels:
        w1, w2, w3 = weights

        def step(_: Kernels, i: Int[Array, ""]) -> tuple[Kernels, None]:
            h1 = x[i] @ w1
            h2 = h1 @ w2
            out = h2 @ w3
            grad2 = out @ w3.T
            grad1 = grad2 @ w2.T
            # The weights' gradients are carried, so that no step can be skipped.
            return (x[i].T @ grad1, h1.T @ grad2, h2.T @ out), None

        return jax.lax.scan(step, weights, steps)[0]

    return lambda: products(weights, x)


def floating_point_operations(
    num_rows: int, sizes: Sequence[tuple[int, int]] = SIZES
) -> float:
    """Return the operations of an epoch's products; `sizes` are those of the kernels.

    A multiplication and an addition count as two.
    """
    first, *others = (rows * columns for rows, columns in sizes)
    return 2.0 * num_rows * (2 * first + 3 * sum(others))


def copy() -> Callable[[], Array]:
    """Return a copy of `COPIED_BYTES`, which are read once and written once."""
    add = jax.jit(lambda x: x + 1.0)
    x = jnp.zeros(COPIED_BYTES // 4, jnp.float32)
    return lambda: add(x)


def dispatches() -> Callable[[], Array]:
    """Return `DISPATCHES` calls, one by one, of a compiled function that adds 1."""
    step = jax.jit(lambda x: x + 1)
    zero = jnp.zeros((), jnp.int32)

    def run() -> Array:
        x = zero
        for _ in range(DISPATCHES):
            x = step(x)
        return x

    return run


def program_mb(program: jax.stages.Compiled) -> float | None:
    """Return the megabytes that a compiled program's arrays take, None if unknown."""
    usage = program.memory_analysis()
    if usage is None:
        return None
    results = usage.output_size_in_bytes + usage.temp_size_in_bytes
    return (usage.argument_size_in_bytes + results) / 1e6


def peak_memory_mb() -> float | None:
    """Return the most memory that the process has held, None if unknown."""
    try:
        import resource
    except ModuleNotFoundError:  # not a Unix
        return None
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def megabytes(ru_maxrss: int) -> float:
    """Return megabytes: `getrusage` counts bytes on macOS, and else kilobytes."""
    return ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
