"""One model or a population over many devices, of one process or of several.

The program is that of `population`; only where its arrays live differs, and the
compiler does the rest. Where the devices divide the members, each trains members of its
own, and nothing passes between them but the metrics of an epoch: the members of a
device are, bit for bit, the population that they would be alone. Otherwise each device
computes its rows of every batch, and in every step the gradients, as many numbers as
all members have parameters, are summed over the devices: that is another order of
additions, so the last bits are others.

The data set is whole on every device, and has to fit there.
"""

import zlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

import ch4jax.training.population as population
from ch4jax.training._epoch import Data, Metrics, MetricsFn, TrainState

AXIS = "devices"
JOIN_SECONDS = 12
HEARTBEAT_SECONDS = 10


class Placement(NamedTuple):
    """Where a population lives.

    Attributes:
      mesh: the devices.
      by_members: each device has members of its own; otherwise, rows of each batch.
    """

    mesh: Mesh
    by_members: bool

    @property
    def whole(self) -> NamedSharding:
        """Of what every device has: data and metrics."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def members(self) -> NamedSharding:
        """Of what leads with `members`: states, parameters and keys."""
        return self.split if self.by_members else self.whole

    @property
    def split(self) -> NamedSharding:
        """Of what each device has a part of, along the first axis."""
        return along(self.mesh, 0)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Return a mesh of one axis; each process has as many devices in it.

    Args:
      num_devices: of all processes together; None takes one, or, where there are
        several processes, all.

    Raises:
      ValueError: if there are fewer, or if they are not as many for each process.
    """
    devices, processes = jax.devices(), jax.process_count()
    if num_devices is None:
        chosen = devices if processes > 1 else devices[:1]
        return Mesh(np.asarray(chosen), (AXIS,))
    each, rest = divmod(num_devices, processes)
    if rest or num_devices < 1:
        raise ValueError(
            "the number of devices must be positive and a multiple of "
            f"{processes}, the number of processes, got {num_devices}"
        )
    chosen = [
        device
        for process in range(processes)
        for device in [d for d in devices if d.process_index == process][:each]
    ]
    if len(chosen) < num_devices:
        raise ValueError(
            f"the number of devices must be at most {len(devices)}, as many "
            f"{devices[0].platform} devices as there are, got {num_devices}"
        )
    return Mesh(np.asarray(chosen), (AXIS,))


def spread(mesh: Mesh, num_members: int) -> Placement:
    """Return how a population of this size is spread over the devices of `mesh`."""
    return Placement(mesh, by_members=num_members % mesh.size == 0)


def along(mesh: Mesh, axis: int) -> NamedSharding:
    """Return the place of an array of which each device has a part, along `axis`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Put arrays, which have to be the same in every process, where they belong."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )

    return jax.tree.map(put, tree)


def gather(tree: PyTree, placement: Placement) -> PyTree:
    """Return arrays whole, on the first device of each process; all have to call it."""
    everywhere = jax.device_put(tree, placement.whole)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), everywhere)


@partial(
    jax.jit, static_argnames=("metrics_fn", "optimizer", "batch_size", "placement")
)
def train_epoch(
    states: TrainState,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    keys: Key[Array, " members"],
    placement: Placement,
) -> tuple[TrainState, Metrics]:
    """Do what `population.train_epoch` does, over the devices of `placement`.

    Args:
      states: placed as `placement.members`, and so they come back.
      data: placed as `placement.whole`, and so the metrics come back.
      metrics_fn: see `training`.
      optimizer: what made the states.
      batch_size: rows in a batch, of all devices together; any number.
      keys: placed as `placement.members`.
      placement: what `spread` returned.
    """
    states, metrics = population.train_epoch(
        states,
        data,
        metrics_fn=_over_rows(metrics_fn, placement),
        optimizer=optimizer,
        batch_size=batch_size,
        keys=keys,
    )
    return (
        jax.lax.with_sharding_constraint(states, placement.members),
        jax.lax.with_sharding_constraint(metrics, placement.whole),
    )


@partial(jax.jit, static_argnames=("metrics_fn", "batch_size", "placement"))
def evaluate(
    params: PyTree,
    data: Data,
    *,
    metrics_fn: MetricsFn,
    batch_size: int = 2048,
    placement: Placement,
) -> Metrics:
    """Do what `population.evaluate` does, placed as in `train_epoch`."""
    metrics = population.evaluate(
        params,
        data,
        metrics_fn=_over_rows(metrics_fn, placement),
        batch_size=batch_size,
    )
    return jax.lax.with_sharding_constraint(metrics, placement.whole)


def _over_rows(metrics_fn: MetricsFn, placement: Placement) -> MetricsFn:
    """Let each device compute its rows of the batch, where it has no own members."""
    if placement.by_members:
        return metrics_fn

    def over_rows(params: PyTree, inputs: Array, labels: Array, *, key: Any) -> Metrics:
        batch = jax.lax.with_sharding_constraint((inputs, labels), placement.split)
        return metrics_fn(params, *batch, key=key)

    return over_rows


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Make this process one of several that run the same program.

    Call it before anything touches a device. Where a process is lost later, JAX ends
    the others with SIGABRT after `HEARTBEAT_SECONDS`, if no sum over the processes
    fails before; where one does not join for `JOIN_SECONDS`, likewise. JAX takes over
    SIGTERM; who wants it back sets it again.

    Args:
      coordinator: `HOST:PORT` where process 0 can be reached; None, like the others,
        where JAX finds them: in SLURM, Open MPI, Kubernetes and Cloud TPU.
      num_processes: in all.
      process_id: of this one, from 0.

    Raises:
      ValueError: if JAX has to find them, and finds no cluster.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=JOIN_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def leave() -> None:
    """Wait until every process is here; from then on each may end as it likes."""
    jax.distributed.shutdown()


def agree(number: int) -> int:
    """Return the largest `number` of any process; all have to call it."""
    return max(_of_all(number))


def check_same(text: str) -> None:
    """Hold what this process has against what the others have; all have to call it.

    Raises:
      ValueError: in every process, if `text` is not the same in all.
    """
    if len(set(_of_all(zlib.crc32(text.encode())))) > 1:
        raise ValueError("the processes differ in what has to be the same in all")


def _of_all(number: int) -> list[int]:
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.uint32(number)).tolist()
