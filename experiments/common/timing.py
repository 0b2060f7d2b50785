"""Seconds of compiling, of first calls and of warm rounds; are they fit to quote?"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax.stages import Compiled, Wrapped
from jaxtyping import PyTree

Name = TypeVar("Name", bound=Hashable)
T = TypeVar("T")

MAX_SPREAD = 1.5
SHORTEST = 0.3  # seconds of a round: what takes less runs again, and counts by its mean
NOT_QUIET = "not quiet: do not quote"


class Timing(NamedTuple):
    """Seconds of one piece of work.

    Attributes:
      first: the first call; includes tracing and compiling if there is any.
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
    """Run `work`, wait for its arrays, and return them with the seconds it took.

    Where its result is no tree of arrays, this waits for all arrays that there are.

    Raises:
      TypeError: if the result is None: nobody could know when the work is done.
    """
    start = time.perf_counter()
    result = jax.block_until_ready(work())
    leaves = jax.tree.leaves(result)
    if not leaves:
        raise TypeError(f"expected work that returns what it computes, got {result!r}")
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        jax.block_until_ready(jax.live_arrays())
    return result, time.perf_counter() - start


def interleave(
    works: Mapping[Name, Callable[[], PyTree]], *, rounds: int
) -> dict[Name, Timing]:
    """Time several pieces of work in turn, so that a drift of the machine hits all.

    Args:
      works: what to run, by name; each is run once, then for `rounds` rounds, in which
        short work is run until `SHORTEST` seconds have passed.
      rounds: at least 1.
    """

    def once(work: Callable[[], PyTree]) -> float:
        took = [timed(work)[1]]
        while sum(took) < SHORTEST:
            took.append(timed(work)[1])
        return statistics.fmean(took)

    first = {name: timed(work)[1] for name, work in works.items()}
    seconds: dict[Name, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(once(work))
    return {name: summarise(first[name], times) for name, times in seconds.items()}


def summarise(first: float, rounds: Sequence[float]) -> Timing:
    """Return the timing of a first call and of the rounds after it."""
    return Timing(first, statistics.median(rounds), min(rounds), max(rounds))


def disturbances(
    timings: Mapping[str, Timing], floors: Mapping[str, float]
) -> dict[str, str]:
    """Return which timings other work on the machine disturbed, and how that shows.

    Args:
      timings: of every piece of work, by name.
      floors: for some of them, the seconds that they cannot beat on a quiet machine.

    Returns:
      A reason for each whose slowest round took more than `MAX_SPREAD` times its
      fastest, or whose median is below its floor; empty if the machine was quiet.
    """
    reasons = {}
    for name, timing in timings.items():
        spread, floor = timing.slowest / timing.fastest, floors.get(name, 0.0)
        if spread > MAX_SPREAD:
            reasons[name] = f"the slowest round took {spread:.2f} times the fastest"
        if timing.median < floor:
            below = timing.median / floor
            reasons[name] = f"took {below:.2f} times as long as its floor"
    return reasons
