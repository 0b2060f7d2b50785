"""The command line of every experiment: flags in, exit code out.

0 done, 1 failed, 2 wrong usage, 65 bad data, 69 no network, 130 interrupted, 143
terminated.
"""

import errno
import inspect
import logging
import math
import os
import re
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
    get_type_hints,
)

import jax
import tyro
from jax.sharding import Mesh
from tyro.constructors import PrimitiveConstructorSpec

from ch4jax.errors import DataError, NetworkError, Refused
from ch4jax.storage import atomic
from ch4jax.training import sharding
from experiments.common import distributed, output, setup, signals, threefry
from experiments.common.console import console
from experiments.common.errors import Failed, Interrupted, UsageError


def parse_path(text: str) -> str:
    """Return the path that a flag names, in which `~` is your home.

    Raises:
      UsageError: if it cannot be the path of a file or folder.
    """
    try:
        atomic.resolve(text).exists()
    except (ValueError, OSError) as error:  # a URL, ~nobody, too long
        raise UsageError(str(error)) from error
    return os.path.expanduser(text)


def _flag(kind: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: kind(parse_path(words[0])),
        is_instance=lambda value: value is None or isinstance(value, (str, Path)),
        str_from_instance=lambda value: [str(value)],
    )


def check(expected: str, holds: Callable[..., bool]) -> Callable[..., None]:
    """Return a check for the type of a flag; it raises UsageError."""

    def check(flag: str, value: float | Path) -> None:
        if not holds(value):
            raise UsageError(f"{flag} must be {expected}, got {value}")

    return check


def check_batch_size(value: int, rows: int, what: str = "training images") -> None:
    """Raise UsageError unless a batch has at most as many rows as there are."""
    holds = check(f"at most the {rows:,} {what}", lambda size: size <= rows)
    holds("--batch-size", value)


# XLA would abort for a larger one.
check_count = check("at least 1 and below 2**31", lambda x: 1 <= x < 2**31)
# Types of flags; `Flags` calls the functions in them.
Count = Annotated[int, check_count]
Positive = Annotated[float, check("positive and finite", lambda x: 0 < x < math.inf)]
From0 = Annotated[float, check("at least 0 and finite", lambda x: 0 <= x < math.inf)]
Seed = Annotated[int, check("in 0 to 2**32 - 1", lambda x: 0 <= x < 2**32)]
Probability = Annotated[float, check("in [0, 1]", lambda x: 0 <= x <= 1)]
# Flags whose default is worked out later; their help says how.
_later = partial(tyro.conf.arg, help_behavior_hint="")
OptionalInt = Annotated[int | None, _later(metavar="INT")]
OptionalCount = Annotated[OptionalInt, check_count]
OptionalFloat = Annotated[float | None, _later(metavar="FLOAT")]
OptionalPositive = Annotated[OptionalFloat, *get_args(Positive)[1:]]
OptionalFrom0 = Annotated[OptionalFloat, *get_args(From0)[1:]]
OptionalStr = Annotated[str | None, _later(metavar="STR")]
Precision = Annotated[
    Literal["highest", "default"] | None, _later(metavar="{highest,default}")
]
FlagPath = Annotated[Path, _flag(Path, "PATH")]
OptionalPath = Annotated[Path | None, _flag(Path, "PATH"), _later()]
Source = Annotated[str, _flag(str, "STR")]  # a folder, or a word
Positional = tyro.conf.Positional
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]

MIN_COLUMNS = 20  # in fewer than 8, tyro draws its boxes without end

EXIT_CODES: dict[type[Exception], int] = {
    Failed: 1,
    Refused: 1,  # a checkpoint would replace a folder that is not ours
    UsageError: 2,
    DataError: 65,
    NetworkError: 69,
}


# A full disk or a missing permission, say; a file that is not there may be our bug.
MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENOMEM),
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG),
    None,  # of `ch4jax.storage`
}


@dataclass(frozen=True)
class Flags:
    """The flags that every experiment has.

    Attributes:
      keep_programs: whether compiled programs are kept from one run to the next;
        an experiment that times compiling does without.
    """

    keep_programs: ClassVar[bool] = True

    seed: Seed = 0
    """Seed of the random key from which everything random is drawn."""
    out: OptionalPath = None
    """Run folder; runs/NAME/TIME-seedSEED if not given."""
    platform: OptionalStr = None
    """Device to run on: cpu, gpu or tpu; JAX's own choice if not given."""
    precision: Precision = None
    """Of matrix products: highest (float32) if not given; default: the device's own."""

    def __post_init__(self) -> None:
        """Call the checks in the types of the flags, with what each flag was given."""
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            values = getattr(self, name)
            if isinstance(values, tuple):
                kind = get_args(kind)[0]
            for check in filter(inspect.isfunction, getattr(kind, "__metadata__", ())):
                for value in values if isinstance(values, tuple) else (values,):
                    if value is not None:
                        check(f"--{name.replace('_', '-')}", value)


@dataclass(frozen=True)
class DeviceFlags(Flags):
    """The flags of experiments that several devices can share."""

    devices: OptionalCount = None
    """Devices to train on; if not given, one, or all that several processes have."""

    def mesh(self) -> Mesh:
        """Return the devices that were asked for.

        Raises:
          UsageError: if there are fewer.
        """
        try:
            return sharding.make_mesh(self.devices)
        except ValueError as error:
            cpu = jax.default_backend() == "cpu"
            hint = "; JAX_NUM_CPU_DEVICES=N makes a CPU count as N" if cpu else ""
            raise UsageError(f"--devices: {error}{hint}") from error


@dataclass(frozen=True)
class TrainingFlags(DeviceFlags):
    """The flags of experiments whose training can be interrupted and resumed."""

    save_every: OptionalCount = None
    """Epochs from one checkpoint to the next; if not given, only the last is saved."""
    resume: OptionalPath = None
    """Run folder of an interrupted run to resume, with the flags that it had."""
    coordinator: OptionalStr = None
    """HOST:PORT of process 0, in each of several processes that train together."""
    num_processes: OptionalCount = None
    """How many processes train together."""
    process_id: OptionalInt = None
    """Which of them this is, from 0."""
    distributed: Switch = False
    """Let JAX find these three, in SLURM, Open MPI, Kubernetes or on Cloud TPUs."""

    @property
    def several(self) -> bool:
        """Whether this is one of several processes that train together."""
        return self.distributed or self.coordinator is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.out:
            raise UsageError(
                f"--out must not be given with --resume {self.resume}, whose folder is "
                f"written to, got {self.out}"
            )
        given = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        missing = [flag for flag, value in given.items() if value is None]
        if self.distributed and len(missing) < len(given):
            raise UsageError(f"--distributed takes the place of {', '.join(given)}")
        if missing and len(missing) < len(given):
            raise UsageError(
                f"{', '.join(given)} go together, got no {', '.join(missing)}"
            )
        if self.coordinator is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise UsageError(f"--coordinator must be HOST:PORT, got {self.coordinator}")
        if not 0 <= (self.process_id or 0) < (self.num_processes or 0):
            raise UsageError(
                f"--process-id must be from 0 to {self.num_processes} - 1, "
                f"got {self.process_id}"
            )


Config = TypeVar("Config", bound=Flags)
Parsed = TypeVar("Parsed")


def main(config_type: type[Config], run: Callable[[Config], None]) -> NoReturn:
    """Parse the flags, run the experiment, and exit with its code."""
    code = exit_code(lambda: _run(parse(config_type), run))
    if code >= 128 or (code and jax.distributed.is_initialized()):
        # Python's own exit would wait for the other processes, and ends in a crash if
        # programs are still running.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(config: Config, run: Callable[[Config], None]) -> int:
    setup.set_platform(config.platform)
    if isinstance(config, TrainingFlags) and config.several:
        distributed.join(config.coordinator, config.num_processes, config.process_id)
    setup.check_settings()
    setup.set_precision(config.precision)
    setup.check_platform(config.platform)
    console.quiet = jax.process_index() > 0
    threefry.unroll()
    if config.keep_programs:
        setup.keep_programs()
    else:
        setup.compile_afresh()
    run(config)
    distributed.leave()
    return 0


def exit_code(work: Callable[[], int]) -> int:
    """Return what `work` returns; if it fails, print one line and return its code.

    Any other error is a bug and shows its traceback.
    """
    stdout = output.protect()
    warnings.showwarning = _show_warning
    logging.getLogger("ch4jax").setLevel(logging.INFO)  # a line for each download
    # Orbax would log the traceback of an error that it raises too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.basicConfig(format="%(message)s")
    try:
        with signals.raised():
            code = work()
        if stdout:
            sys.stdout.flush()
        if not stdout or not stdout.error:
            return code
        line, code = f"standard output: {stdout.error.strerror}", code or 1
    except Interrupted as stop:
        line, code = str(stop), stop.code
    except tuple(EXIT_CODES) as error:
        line = str(error)
        code = next(c for kind, c in EXIT_CODES.items() if isinstance(error, kind))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        line, code = str(error).partition("\n")[0] or "out of memory", 1
        if isinstance(error, jax.errors.JaxRuntimeError) and "Out of mem" not in line:
            raise
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        line, code = str(error), 1
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        line, code = traceback.format_exc(), 1
    print(f"error: {line}", file=sys.stderr)
    return code


def parse(config_type: type[Parsed], args: list[str] | None = None) -> Parsed:
    """Return the config that the flags describe; `--help` prints and exits.

    Raises:
      UsageError: if a flag has a value that it cannot have.
      SystemExit: with code 2, if there is no such flag or its value does not parse.
    """
    module = sys.modules[config_type.__module__]
    fields: dict[str, Any] = vars(config_type)["__dataclass_fields__"]
    for name in [name for name in fields if name in TrainingFlags.__dataclass_fields__]:
        fields[name] = fields.pop(name)  # tyro's order: the topic's flags come first
    spec = module.__spec__
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
    return tyro.cli(
        config_type,
        prog=f"python -m {spec.name if spec else module.__name__}",
        description=_wrap(module.__doc__ or ""),
        args=args,
    )


def _wrap(doc: str) -> str:
    """Break lines between words; tyro joins those that are not indented."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(
        part
        if part.startswith(" ")
        else textwrap.fill(part, width, subsequent_indent="  ")
        for part in inspect.cleandoc(doc).split("\n\n")
    )


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
