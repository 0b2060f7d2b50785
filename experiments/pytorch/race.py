"""The same training, timed in PyTorch and in JAX, in turn.

All rows do the same work: the epochs, batches and arithmetic of one system, in float32
on the CPU, with as many threads on either side.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import torch

from ch4jax import training
from experiments.common import timing
from experiments.common.errors import Failed
from experiments.pytorch import levels
from experiments.pytorch.systems import (
    System,
    keys_of,
    module_with,
    on_device,
    start,
    torch_data,
    torch_train,
)

EAGER = "PyTorch, eager"


class Row(NamedTuple):
    """Seconds of one way to do the work of a system.

    Attributes:
      compile: tracing and compiling; of `torch.compile`, the first call less a warm
        one.
      ratio: median of PyTorch, eager, over the median of this row.
    """

    system: str
    name: str
    compile: float
    median: float
    fastest: float
    slowest: float
    ratio: float


def check_equal(system: System, key: Any) -> None:
    """Make sure that both sides compute the same before either is timed.

    Raises:
      Failed: if the outputs in float32 are apart; names the system and by how much.
    """
    params, (inputs, _) = start(system, key), on_device(system)
    module = module_with(system, params, torch.float32).eval()
    x, _ = torch_data(system)
    with torch.no_grad():
        theirs = module(x[:32]).numpy().ravel()
    ours = system.predict(params, inputs[:32], key=None).ravel()
    apart = levels.difference(ours, theirs)
    if not apart <= levels.ROUNDED:
        raise Failed(f"{system.name}: outputs differ by {apart:.1e}; nothing is timed")


def works(
    system: System, epochs: int, key: Any
) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return the ways to train for some epochs, and the seconds to compile the scan."""
    optimizer, make_theirs = next(iter(system.optimizers.values()))
    data = on_device(system)

    whole = jax.jit(lambda data, key: system.run(system, data, key, optimizer, epochs))
    scan, compile_seconds = timing.compile(whole, data, key)
    step = jax.jit(
        partial(training.train_step, metrics_fn=system.metrics_fn, optimizer=optimizer)
    )
    _, step_key = keys_of(key)
    params = start(system, key)

    # Dealt once: what deals them is compiled anew whenever it is asked.
    some = system._replace(epochs=epochs)
    dealt = [(rows, real) for rows, real, _ in some.batches(some, key)]

    def step_by_step() -> Any:
        state = training.init_state(params, optimizer)
        for rows, real in dealt:
            batch = training.Batch(data[0][rows], data[1][rows], real)
            state, _ = step(state, batch, key=step_key)
        return state.params

    tensors = torch_data(system)

    def torch_epochs(compiled: bool) -> Callable[[], None]:
        module = system.module()
        call = torch.compile(module) if compiled else module
        theirs = make_theirs(module)
        return lambda: torch_train(
            system, module, theirs, tensors, epochs=epochs, call=call
        )

    return {
        EAGER: torch_epochs(compiled=False),
        "PyTorch, torch.compile": torch_epochs(compiled=True),
        "JAX, step by step": step_by_step,
        "JAX, one scan": lambda: scan(data, key),
    }, compile_seconds


def race(system: System, *, rounds: int, key: Any) -> list[Row]:
    """Time every way to train a system: its whole run, or one epoch of the images."""
    check_equal(system, key)
    epochs = 1 if len(system.data[0]) > 5_000 else system.epochs
    runs, scan_compile = works(system, epochs, key)
    timings = timing.interleave(runs, rounds=rounds)
    eager = timings[EAGER].median
    return [
        Row(
            system.name,
            name,
            scan_compile if name == "JAX, one scan" else max(0.0, t.first - t.median),
            t.median,
            t.fastest,
            t.slowest,
            eager / t.median,
        )
        for name, t in timings.items()
    ]
