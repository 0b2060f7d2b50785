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


def test_works_run_in_turn_so_that_a_drift_hits_all():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = timing.interleave(works, rounds=3)
    assert order == list("ab" * 4)
    for seconds in timings.values():
        assert 0 <= seconds.fastest <= seconds.median <= seconds.slowest


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        timing.interleave({}, rounds=0)


def test_timed_returns_what_the_work_returned():
    result, seconds = timing.timed(lambda: jnp.ones(3).sum())
    assert result == 3
    assert seconds > 0
