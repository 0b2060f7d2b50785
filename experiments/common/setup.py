"""JAX as a command needs it: its platform, and its cache of compiled programs.

Call these before anything is computed.
"""

import os
import warnings
from contextlib import AbstractContextManager
from typing import Any

import jax
import platformdirs

from experiments.common.errors import UsageError

# Settings of JAX that change which numbers are drawn.
DRAWS = (
    *("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"),
    "jax_random_seed_offset",
)
# JAX's names for what `--platform` names; none stands for whatever there is. Its own
# gpu asks for those of all makers, and fails if one is missing.
PLATFORMS = {"cpu": "cpu", "gpu": "", "tpu": ""}
# The number of devices is compared by itself.
NOT_NUMBERS = ("--xla_force_host_platform_device_count", "--xla_dump")


def set_platform(asked: str | None) -> None:
    """Let JAX look for the devices that were asked for, with the CPU beside them."""
    if asked is not None:
        jax.config.update("jax_platforms", PLATFORMS.get(asked, f"{asked},cpu"))


def check_platform(asked: str | None) -> None:
    """Raise UsageError if JAX does not compute on the platform that was asked for."""
    try:
        found = jax.default_backend()
        reason = f"JAX finds {found}"
    except (RuntimeError, AssertionError) as error:  # the latter for cuda
        found = None
        reason = str(error).partition("\n")[0].partition(" (")[0] or "not installed"
    # A maker's name, such as cuda, may stand for a GPU, but not for the CPU.
    fits = asked in (None, found) or (asked not in PLATFORMS and found != "cpu")
    if found is None or not fits:
        asked = asked or jax.config.values["jax_platforms"]
        raise UsageError(f"--platform {asked}: no such device here ({reason}); try cpu")


def on_cpu() -> AbstractContextManager[Any]:
    """Compute on the CPU, which JAX has beside a GPU or TPU, within a `with`.

    Raises:
      UsageError: if JAX_PLATFORMS leaves it out.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError as error:
        asked = jax.config.values["jax_platforms"]
        raise UsageError(f"JAX_PLATFORMS must name cpu too, got {asked}") from error


def check_settings() -> None:
    """Compute in float32, and refuse settings with which no command works.

    Raises:
      UsageError: if JAX does not compile, promotes no dtypes, transfers nothing, or
        has other keys.
    """
    if jax.config.values["jax_enable_x64"]:
        jax.config.update("jax_enable_x64", False)
        warnings.warn(
            "JAX_ENABLE_X64 has no effect: commands compute in float32, and in float64 "
            "only what they say",
            stacklevel=2,
        )
    if jax.config.values["jax_disable_jit"]:
        raise UsageError("JAX_DISABLE_JIT must be off: commands compile, got on")
    if (kind := jax.config.values["jax_default_prng_impl"]) != "threefry2x32":
        raise UsageError(
            "JAX_DEFAULT_PRNG_IMPL must be threefry2x32, with which a seed draws the "
            f"same alone and among others, got {kind}"
        )
    for way in ("host_to_device", "device_to_host", "device_to_device"):
        guard = f"jax_transfer_guard_{way}"
        if "disallow" in (jax.config.values[guard] or ""):
            raise UsageError(
                f"{guard.upper()} must be allow or log: commands print and draw what "
                f"the device computes, got {jax.config.values[guard]}"
            )
    promotion = jax.config.values["jax_numpy_dtype_promotion"]
    if getattr(promotion, "value", promotion) == "strict":
        raise UsageError(
            "JAX_NUMPY_DTYPE_PROMOTION must be standard, which Optax needs, got strict"
        )


def set_precision(asked: str | None) -> None:
    """Multiply in float32 on every device, unless `asked` or JAX's variable differs.

    By its own default a TPU rounds what it multiplies to bfloat16, and a GPU to TF32.
    """
    name = "jax_default_matmul_precision"
    jax.config.update(name, asked or jax.config.values[name] or "highest")


def numerics() -> dict[str, Any]:
    """Return the settings that change numbers, as JAX has them now."""
    names = (*DRAWS, "jax_default_matmul_precision")
    return {name: jax.config.values[name] for name in names} | {
        "XLA_FLAGS": sorted(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if not flag.startswith(NOT_NUMBERS)
        )
    }


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder from one run to the next.

    JAX executes what it finds there, so it is not `ch4jax.data.cache_folder()`, which
    several users may share. A folder that cannot be used costs time and nothing else.
    JAX's own variables take precedence.
    """
    values = jax.config.values
    on = values["jax_enable_compilation_cache"]
    if not on or values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = platformdirs.user_cache_path("ch4jax").expanduser() / "xla"
    except RuntimeError:  # a user without a home
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Small programs too: two dozen of them take longer than one large one.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    message = "Error (reading|writing) persistent compilation cache"
    warnings.filterwarnings("ignore", message)


def compile_afresh() -> None:
    """Use no program of an earlier run, unless JAX's own variable says so."""
    if "JAX_ENABLE_COMPILATION_CACHE" not in os.environ:
        jax.config.update("jax_enable_compilation_cache", False)
