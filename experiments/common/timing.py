"""Seconds spent compiling, in the first call, and in every later one."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from jax.stages import Compiled, Wrapped
from jaxtyping import PyTree

T = TypeVar("T")


class Timing(NamedTuple):
    """Seconds of one piece of work.

    Attributes:
      first: the first call, with tracing and compiling where there is any.
      median: of the rounds after the first.
      fastest: of the rounds after the first.
      slowest: of the rounds after the first.
    """

    first: float
    median: float
    fastest: float
    slowest: float


def compile(jitted: Wrapped, *args: Any, **kwargs: Any) -> tuple[Compiled, float]:
    """Compile a jitted function for these arguments.

    Returns:
      The compiled function, called without the static arguments, and the seconds
      that tracing and compiling took.
    """
    start = time.perf_counter()
    compiled = jitted.lower(*args, **kwargs).compile()
    return compiled, time.perf_counter() - start


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Run `work`, wait for its arrays, and return them with the seconds it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(work())
    return result, time.perf_counter() - start


def interleave(
    works: Mapping[str, Callable[[], PyTree]], *, rounds: int
) -> dict[str, Timing]:
    """Time several pieces of work in turn, so that a drift of the machine hits all.

    Args:
      works: what to run, by name; each is run once, then `rounds` times more.
      rounds: at least 1.

    Raises:
      ValueError: if `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    first = {name: timed(work)[1] for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work)[1])
    return {
        name: Timing(first[name], statistics.median(times), min(times), max(times))
        for name, times in seconds.items()
    }
