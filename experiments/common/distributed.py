"""Several processes that run the same program: how they join, agree and leave."""

import signal
import socket

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.common.errors import Failed, UsageError

JOIN_SECONDS = 30
HEARTBEAT_SECONDS = 10


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Make this process one of several; call it before anything touches a device.

    If a process is lost later, a sum over the processes fails in the others, or JAX
    ends them after `HEARTBEAT_SECONDS`.

    Args:
      coordinator: `HOST:PORT` of process 0. None, like the others, where JAX finds
        them: under SLURM, Open MPI and Kubernetes, and on Cloud TPU.
      num_processes: in all.
      process_id: of this one, from 0.

    Raises:
      UsageError: if JAX finds no cluster, or the address cannot be used.
      Failed: if process 0 finds that the port is taken.
    """
    if coordinator is not None:
        check_address(coordinator, bind=process_id == 0)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UsageError(
            "--distributed needs SLURM, Open MPI, Kubernetes or a Cloud TPU, and JAX "
            "finds none; elsewhere give --coordinator, --num-processes and --process-id"
        ) from error
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--coordinator {coordinator} cannot be used: {reason}"
        ) from error
    signal.signal(signal.SIGTERM, terminate)  # JAX has put its own handler there


def check_address(coordinator: str, *, bind: bool) -> None:
    """Check what JAX would abort for, or wait for in vain.

    Raises:
      UsageError: if the host is unknown.
      Failed: if `bind` and the port is taken.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except (OSError, UnicodeError) as error:  # the latter for a..b
        raise UsageError(f"--coordinator {coordinator}: {error}") from error
    try:
        if bind:
            socket.create_server(("", int(port))).close()
    except OSError as error:
        raise Failed(f"--coordinator {coordinator}: {error.strerror}") from error


def agree(number: int) -> int:
    """Return the largest `number` of any process; every process must call it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(text: str) -> None:
    """Compare what every process passes; every process must call it.

    Raises:
      UsageError: in every process, if `text` is not the same in all.
    """
    if jax.process_count() == 1:
        return
    # All must have arrays of one shape to be compared, so the length goes first.
    content = np.frombuffer(text.encode(), np.uint8)
    try:
        multihost_utils.assert_equal(np.int32(content.size))
        multihost_utils.assert_equal(content)
    except AssertionError as error:
        raise UsageError(
            "every process needs the same flags, data, versions and settings of JAX, "
            "and they differ"
        ) from error


def leave() -> None:
    """Wait until every process is here; from then on each may end."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()
