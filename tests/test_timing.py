"""Timing: compiling kept apart, rounds interleaved, results waited for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import timing


def test_a_compiled_function_is_called_without_its_static_arguments():
    power = jax.jit(lambda x, n: x**n, static_argnames="n")
    compiled, seconds = timing.compile(power, jnp.arange(3.0), n=2)
    np.testing.assert_array_equal(compiled(jnp.arange(3.0)), [0.0, 1.0, 4.0])
    assert seconds > 0


def test_works_run_in_turn_so_that_a_drift_hits_all(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    order = []
    works = {name: lambda name=name: order.append(name) or name for name in "ab"}
    timings = timing.interleave(works, rounds=3)
    assert order == list("ab" * 4)
    for seconds in timings.values():
        assert 0 <= seconds.fastest <= seconds.median <= seconds.slowest


def test_short_work_counts_by_the_mean_of_many_calls(monkeypatch):
    times = iter([9.0, *[0.05] * 5, 0.1, 0.4])
    monkeypatch.setattr(timing, "timed", lambda work: (None, next(times)))
    found = timing.interleave({"a": print}, rounds=2)["a"]
    assert (found.first, found.slowest) == (9.0, 0.4)
    assert found.fastest == pytest.approx(0.35 / 6)


class Opaque:
    """Holds an array, and is no tree."""

    def __init__(self, array):
        self.array = array


@pytest.mark.parametrize("wrap", [Opaque, lambda array: {"a": array}])
def test_work_is_waited_for_whatever_it_returns(wrap):
    long = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.sin(y @ y), x))
    x = jnp.eye(200)
    long(x).block_until_ready()
    result, _ = timing.timed(lambda: wrap(long(x)))
    assert all(array.is_ready() for array in jax.live_arrays())
    assert result


def test_work_that_returns_nothing_is_refused():
    with pytest.raises(TypeError, match="returns what it computes, got None"):
        timing.timed(lambda: None)
