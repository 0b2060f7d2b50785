"""Search many settings in one program: those that fall behind make room for others.

Asynchronous successive halving in its stopping variant (Li et al., 2020, "A System for
Massively Parallel Hyperparameter Tuning"): a few slots train one candidate each. At
each rung a candidate goes on only if its loss is among the best of all that have been
there; otherwise its slot starts the next candidate.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ch4jax.training.checks import check_counts, check_member_keys, check_rows


class _Slots(NamedTuple):
    candidates: Int[Array, " slots"]  # past the last of them, a slot is idle
    ages: Int[Array, " slots"]
    states: PyTree
    losses: Float[Array, "candidates rungs"]
    waiting: Int[Array, ""]  # the first candidate that has not started


def search(
    candidates: PyTree,
    *,
    start: Callable[[PyTree], PyTree],
    advance: Callable[[PyTree, PyTree], tuple[PyTree, Array]],
    rungs: Sequence[int],
    slots: int,
    keep: int = 3,
) -> Float[Array, "candidates rungs"]:
    """Train every candidate up to the first rung, and few to the last; to be jitted.

    A candidate's losses are those of its training alone: the others only decide when it
    stops. Candidates start in their order: shuffle them, so that the first are not all
    alike.

    Args:
      candidates: hyperparameters, keys: whatever differs, with a leading axis.
      start: candidate -> state before training.
      advance: candidate, state -> state after one more unit of training (an epoch, say)
        and its loss, on data that it does not train on.
      rungs: units of training, rising, after which losses are compared; training ends
        at the last. With a single rung, all candidates train to the end.
      slots: how many train at once.
      keep: one in so many goes on from a rung, and none whose loss is not finite.

    Returns:
      The loss of each candidate at each rung, NaN where it had stopped before.

    Raises:
      ValueError: if the candidates have not one leading axis, if a size is below 1 or
        no whole number, if `rungs` do not rise, and as `population.seed_keys` does.
    """
    paths = jax.tree_util.tree_leaves_with_path(candidates)
    number = check_rows(**{f"candidates{jax.tree_util.keystr(p)}": x for p, x in paths})
    check_counts(slots=slots, keep=keep)
    for rung in rungs:  # half a unit would never be reached
        check_counts(rung=rung)
    if not len(rungs) or any(b <= a for a, b in itertools.pairwise(rungs)):
        raise ValueError(f"rungs must rise, got {rungs}")
    units, slots = jnp.array(rungs), min(slots, number)

    def chosen(numbers: Int[Array, " slots"]) -> PyTree:
        def pick(leaf: Array | np.ndarray) -> Array:
            array = jnp.asarray(leaf)
            if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                check_member_keys(array)
                array = jax.random.clone(array)
            return array[numbers]

        return jax.tree.map(pick, candidates)

    def refill(ended: Bool[Array, " slots"], run: _Slots) -> _Slots:
        following = run.waiting + jnp.cumsum(ended) - 1
        numbers = jnp.where(ended, following, run.candidates)
        select = jax.vmap(lambda i, *trees: jax.tree.map(partial(jnp.where, i), *trees))
        states = select(ended, jax.vmap(start)(chosen(numbers)), run.states)
        ages, waiting = jnp.where(ended, 0, run.ages), run.waiting + ended.sum()
        return _Slots(numbers, ages, states, run.losses, waiting)

    def advance_all(run: _Slots) -> _Slots:
        states, loss = jax.vmap(advance)(chosen(run.candidates), run.states)
        loss = jnp.where(jnp.isfinite(loss), loss, jnp.inf)
        ages = run.ages + 1
        rung = jnp.searchsorted(units, ages)
        judged = ages == units[rung]
        rows = jnp.where(judged, run.candidates, number)  # past the last: dropped
        losses = run.losses.at[rows, rung].set(loss, mode="drop")
        rivals = losses[:, rung]
        better = (rivals < loss[None]).sum(axis=0)
        behind = keep * better >= (~jnp.isnan(rivals)).sum(axis=0)
        ended = judged & (behind | jnp.isinf(loss) | (ages == units[-1]))
        run = _Slots(run.candidates, ages, states, losses, run.waiting)
        return jax.lax.cond(ended.any(), refill, lambda _, run: run, ended, run)

    first = jnp.arange(slots)
    run = _Slots(
        first,
        jnp.zeros(slots, int),
        jax.vmap(start)(chosen(first)),
        jnp.full((number, len(rungs)), jnp.nan),
        jnp.array(slots),
    )
    return jax.lax.while_loop(
        lambda run: (run.candidates < number).any(), advance_all, run
    ).losses
