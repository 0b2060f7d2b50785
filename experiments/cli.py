"""The command line of every experiment: flags in, exit code out.

0 done, 1 failed, 2 wrong usage, 65 bad data, 69 no network, 130 interrupted, 143
terminated.
"""

import contextlib
import io
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.errors import Failed, Interrupted, UsageError
from experiments.report import Report

# Flags whose default is worked out later; their help says how.
_later = partial(tyro.conf.arg, help_behavior_hint="")
OptionalInt = Annotated[int | None, _later(metavar="INT")]
OptionalFloat = Annotated[float | None, _later(metavar="FLOAT")]
OptionalStr = Annotated[str | None, _later(metavar="STR")]
OptionalPath = Annotated[Path | None, _later(metavar="PATH")]


@dataclass(frozen=True)
class Flags:
    """The flags that every experiment has."""

    seed: int = 0
    """Seed of the random key from which everything random is drawn."""
    out: OptionalPath = None
    """Run folder; runs/NAME/TIME-seedSEED if not given."""
    platform: OptionalStr = None
    """Device to run on: cpu, gpu or tpu; JAX's own choice if not given."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be in 0 to 2**32 - 1, got {self.seed}")


@dataclass(frozen=True)
class TrainingFlags(Flags):
    """The flags of experiments whose training can be interrupted and gone on with."""

    save_every: OptionalInt = None
    """Epochs from one checkpoint to the next; none are saved if not given."""
    resume: OptionalPath = None
    """Run folder of an interrupted run to go on with, with the flags that it had."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_1("--save-every", self.save_every)
        if self.resume and self.out:
            raise UsageError(
                f"--out must not be given with --resume {self.resume}, whose folder is "
                f"written to, got {self.out}"
            )


def check_positive(flag: str, value: float | None) -> None:
    """Raise UsageError unless `value` is not given, or finite and above zero."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageError(f"{flag} must be positive and finite, got {value}")


def check_at_least_1(flag: str, value: int | None) -> None:
    """Raise UsageError unless `value` is not given, or 1 or more."""
    if value is not None and value < 1:
        raise UsageError(f"{flag} must be at least 1, got {value}")


def main(config_type: type, run: Callable[[Any, Report], None]) -> None:
    """Parse the flags, run the experiment in its run folder, exit with the code."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    try:
        config = parse(config_type)
        _choose_platform(config.platform)
        name = Path(run.__code__.co_filename).stem
        run(config, Report(name))
        code = 0
    except KeyboardInterrupt:
        _complain("interrupted")
        code = 130
    except Interrupted as stop:
        _complain(str(stop))
        code = stop.code
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        _complain(str(error))
    sys.exit(code)


def parse(config_type: type, args: list[str] | None = None) -> Any:
    """Return the config that the flags describe; `--help` prints and exits.

    Raises:
      UsageError: with one line that says which flag is wrong and why.
    """
    module = sys.modules[config_type.__module__]
    name = Path(str(module.__file__)).stem
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                config_type,
                prog=f"python -m experiments.{name}",
                description=module.__doc__,
                args=args,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro draws a box of several paragraphs; the first of them says what is wrong.
    lines = [line.strip(" │") for line in message.getvalue().splitlines()[1:]]
    paragraph = " ".join(lines).partition("───")[0].partition("  ")[0]
    raise UsageError(re.sub(r"\s+", " ", paragraph).strip() + "; see --help")


def _choose_platform(platform: str | None) -> None:
    if platform is not None:
        os.environ["JAX_PLATFORMS"] = platform
    import jax

    try:
        jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0].partition(" (")[0]
        raise UsageError(
            f"--platform {asked}: no such device here ({reason}); try cpu"
        ) from None


def _exit_code(error: Exception) -> int | None:
    """Return the exit code for an error that the user can mend, None for a bug."""
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, Failed):
        return 1
    from ch4jax.data import DataError, NetworkError

    if isinstance(error, DataError):
        return 65
    if isinstance(error, NetworkError):
        return 69
    return None


def _terminate(number: int, _: Any) -> None:
    raise Interrupted("terminated", number)


def _complain(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
