"""One model or a population on many devices, of one process or of several.

Computation follows data: the functions of `training` and `population` run wherever
you place their arrays. There are two ways to use several devices:

- Give each device members of its own: place states and keys `along(mesh, 0)` and the
  data `whole(mesh)`. Nothing passes between the devices, and the members of a device
  are, bit for bit, the population that they would be alone.
- Give each device rows of every batch: place everything `whole(mesh)` and wrap the
  metrics function in `by_rows`. In every step the devices sum their gradients, as many
  numbers as the model has parameters. That is another order of additions, so the last
  bits differ from those of one device.

Either way the data set is whole on every device, and has to fit there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from ch4jax.training._epoch import Metrics, MetricsFn

AXIS = "devices"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Return a mesh of one axis, `AXIS`, with equally many devices of each process.

    Args:
      num_devices: of all processes together. None takes one device, or all of them
        where there are several processes.

    Raises:
      ValueError: if `num_devices` is not a positive multiple of the number of
        processes, or if there are fewer devices.
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
    chosen = [d for i in range(processes) for d in jax.local_devices(i)[:each]]
    if len(chosen) < num_devices:
        raise ValueError(
            f"the number of devices must be at most {len(devices)}, as many "
            f"{devices[0].platform} devices as there are, got {num_devices}"
        )
    return Mesh(np.asarray(chosen), (AXIS,))


def along(mesh: Mesh, axis: int) -> NamedSharding:
    """Return the sharding of arrays of which each device has a part, along `axis`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def whole(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Move arrays, which must be equal in every process, to their devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf: Array | np.ndarray) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        all_of_it = np.asarray(leaf)
        return jax.make_array_from_callback(
            all_of_it.shape, sharding, lambda index: all_of_it[index]
        )

    return jax.tree.map(put, tree)


def gather(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return arrays whole, on the first device of each process.

    Every process must call it.
    """
    everywhere = jax.device_put(tree, whole(mesh))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), everywhere)


def by_rows(metrics_fn: MetricsFn, mesh: Mesh) -> MetricsFn:
    """Return `metrics_fn` with the rows of every batch divided among the devices.

    Like every metrics function, wrap it once for all calls: a second wrapper is
    another function, for which `jax.jit` compiles again. Batches may have any size.
    """

    def divided(
        params: PyTree, inputs: Array, labels: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        batch = jax.lax.with_sharding_constraint((inputs, labels), along(mesh, 0))
        return metrics_fn(params, *batch, key=key)

    return divided
