"""Many models in one program: `training`, mapped over a leading axis of members.

Member i of a population does what `training` does with member i's state and key; only
the order of the additions inside the matrix products may differ. Computation follows
data: place states and keys with `sharding.place`, and each device trains its members.
"""

import operator
from functools import partial
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

import ch4jax.training._epoch as training
from ch4jax.training._epoch import Data, Metrics, MetricsFn, TrainState
from ch4jax.training.checks import check_counts, check_member_keys, check_rows

CACHED_BYTES = 5 * 2**20  # two of the book's dropout MLPs, with their gradients


def seed_keys(seed: SupportsIndex, num_members: int) -> Key[Array, " members"]:
    """Return the keys of the seeds `seed`, `seed + 1` and so on, modulo 2**32.

    Raises:
      ValueError: if `num_members` is below 1, or if there are several and JAX's default
        keys are `rbg` or `unsafe_rbg`, which do not draw the same when mapped over.
    """
    check_counts(num_members=num_members)
    first = jnp.uint32(operator.index(seed) % 2**32)
    seeds = first + jnp.arange(num_members, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.key)(seeds)
    check_member_keys(keys)
    return keys


def init_states(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the states before the first step; `params` lead with `members`."""
    return jax.vmap(partial(training.init_state, optimizer=optimizer))(params)


def group_size(params: PyTree, platform: str) -> int | None:
    """Return how many members to train at a time; None for all.

    A step reads and writes the parameters and gradients of the whole group. On a CPU
    they should stay in the cache from one step to the next; a GPU or TPU is fast only
    when it is full.

    Args:
      params: lead with `members`.
      platform: `jax.default_backend()`.
    """
    leaves = jax.tree.leaves(params)
    each = 2 * sum(leaf.size // len(leaf) * leaf.dtype.itemsize for leaf in leaves)
    return max(1, CACHED_BYTES // max(1, each)) if platform == "cpu" else None


@partial(
    jax.jit,
    static_argnames=("metrics_fn", "optimizer", "batch_size", "group"),
    donate_argnames="states",
)
def train_epoch(
    states: TrainState,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    group: int | None = None,
    keys: Key[Array, " members"],
) -> tuple[TrainState, Metrics]:
    """Train each member for one epoch on the same `data`, in the order of its own key.

    See `training.train_epoch`. Each metric comes back with the shape (members,). With
    `group`, so many members train at a time, on one device (see `group_size`).

    Raises:
      ValueError: as `training.train_epoch` and `seed_keys` do, if there is not one key
        for each member, and if `group` is below 1.
    """
    check_member_keys(keys)
    check_rows(states=states.step, keys=keys)
    member = partial(
        training.train_epoch,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        batch_size=batch_size,
    )

    def alone(pair: tuple[TrainState, PRNGKeyArray]) -> tuple[TrainState, Metrics]:
        return member(pair[0], data, key=pair[1])

    if group is None or group >= len(keys):
        return jax.vmap(alone)((states, keys))
    check_counts(group=group)
    return jax.lax.map(alone, (states, keys), batch_size=group)


@partial(jax.jit, static_argnames=("metrics_fn", "batch_size"))
def evaluate(
    params: PyTree, data: Data, *, metrics_fn: MetricsFn, batch_size: int = 2048
) -> Metrics:
    """Evaluate each member on the same `data`; each metric has shape (members,)."""
    member = partial(training.evaluate, metrics_fn=metrics_fn, batch_size=batch_size)
    return jax.vmap(member, in_axes=(0, None))(params, data)
