"""JAX as a run needs it: its platform, its processes, and programs that are kept.

All of it comes before anything is computed.
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings

import jax

from ch4jax.training import sharding
from experiments.common import ranks, threefry
from experiments.common.errors import UsageError


def check_platform() -> None:
    """Raise UsageError if there is no device of the platform that was asked for."""
    try:
        jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0].partition(" (")[0]
        raise UsageError(
            f"--platform {asked}: no such device here ({reason}); try cpu"
        ) from None


def draw_quickly() -> None:
    """Compile random bits so that they are drawn quickly, and are the same."""
    threefry.unroll()


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder from one run to the next.

    JAX runs what it finds there, so it is not `ch4jax.data.cache_folder()`, which
    several users may share. A folder that cannot be used costs time and nothing else.
    JAX's own variables go first.
    """
    import platformdirs

    values = jax.config.values
    on = values["jax_enable_compilation_cache"]
    if not on or values["jax_compilation_cache_dir"] is not None:
        return
    folder = platformdirs.user_cache_path("ch4jax") / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The little ones too: two dozen of them take longer than one large one.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    message = "Error (reading|writing) persistent compilation cache"
    warnings.filterwarnings("ignore", message)


def compile_anew() -> None:
    """Take no program from an earlier run, unless JAX's own variable says so."""
    if "JAX_ENABLE_COMPILATION_CACHE" not in os.environ:
        jax.config.update("jax_enable_compilation_cache", False)


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Make this process, which is watched, one of a run; see `ch4jax.sharding.join`.

    Raises:
      UsageError: if JAX has to find the run, and finds none.
    """
    threading.Thread(target=_end_with_the_watcher, daemon=True).start()
    # Gloo prints to whatever file stdout is. From here on that is stderr, where it is
    # dropped, and Python's stdout is a file of its own.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)
    if ranks.LAUNCHER in os.environ:
        # Of the GPUs of this machine, one for each process.
        os.environ.setdefault("JAX_LOCAL_DEVICE_IDS", str(process_id))

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        sharding.join(coordinator, num_processes, process_id)
        signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        raise UsageError(
            "--distributed must be in SLURM, Open MPI, Kubernetes or on Cloud TPUs, "
            "and JAX finds none; elsewhere give --coordinator, --num-processes and "
            "--process-id"
        ) from None
    except RuntimeError as error:
        raise UsageError(
            f"--coordinator {coordinator} cannot be used: {error}"
        ) from None


def rank() -> int:
    """Return which of the processes of the run this is."""
    return jax.process_index()


def leave() -> None:
    """Wait for the other processes; from then on this one may end."""
    sharding.leave()


def explain(error: Exception) -> int:
    """Show why a watched process fails, and return its exit code."""
    if re.search("Gloo|NCCL|coordination service", str(error)):
        # JAX is about to end this process, and to say which one was lost.

        time.sleep(1.5 * sharding.HEARTBEAT_SECONDS)
        return ranks.LOST
    traceback.print_exception(error)
    return 1


def _end_with_the_watcher() -> None:
    os.read(0, 1)
    os._exit(ranks.LOST)
