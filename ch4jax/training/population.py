"""Many models in one program: `training`, mapped over a leading axis of members.

Member i of a population does what `training` does with member i's state and key; only
the order of the additions inside the matrix products may differ. Computation follows
data: place states and keys with `sharding.place`, and each device trains its members.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

import ch4jax.training._epoch as training
from ch4jax.training._epoch import Data, Metrics, MetricsFn, TrainState
from ch4jax.training.checks import check_counts, check_member_keys, check_rows


def seed_keys(seed: int, num_members: int) -> Key[Array, " members"]:
    """Return the keys of the seeds `seed`, `seed + 1` and so on, modulo 2**32.

    Raises:
      ValueError: if `num_members` is below 1, or if there are several and JAX's default
        keys are `rbg` or `unsafe_rbg`, which do not draw the same when mapped over.
    """
    check_counts(num_members=num_members)
    seeds = jnp.uint32(seed % 2**32) + jnp.arange(num_members, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.key)(seeds)
    check_member_keys(keys)
    return keys


def init_states(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the states before the first step; `params` lead with `members`."""
    return jax.vmap(partial(training.init_state, optimizer=optimizer))(params)


@partial(jax.jit, static_argnames=("metrics_fn", "optimizer", "batch_size"))
def train_epoch(
    states: TrainState,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    keys: Key[Array, " members"],
) -> tuple[TrainState, Metrics]:
    """Train each member for one epoch on the same `data`, in the order of its own key.

    See `training.train_epoch`. Each metric comes back with the shape (members,).

    Raises:
      ValueError: as `training.train_epoch` and `seed_keys` do, and if there is not one
        key for each member.
    """
    check_member_keys(keys)
    check_rows(states=states.step, keys=keys)
    member = partial(
        training.train_epoch,
        metrics_fn=metrics_fn,
        optimizer=optimizer,
        batch_size=batch_size,
    )
    return jax.vmap(lambda state, key: member(state, data, key=key))(states, keys)


@partial(jax.jit, static_argnames=("metrics_fn", "batch_size"))
def evaluate(
    params: PyTree, data: Data, *, metrics_fn: MetricsFn, batch_size: int = 2048
) -> Metrics:
    """Evaluate each member on the same `data`; each metric has shape (members,)."""
    member = partial(training.evaluate, metrics_fn=metrics_fn, batch_size=batch_size)
    return jax.vmap(member, in_axes=(0, None))(params, data)
