"""The command line of every experiment: flags in, exit code out.

0 done, 1 failed, 2 wrong usage, 65 bad data, 69 no network, 75 a lost peer, 130
interrupted, 143 terminated.
"""

import contextlib
import io
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from ch4jax.errors import DataError, NetworkError
from experiments.common import ranks, runtime
from experiments.common.console import Report
from experiments.common.errors import Failed, Interrupted, LostPeer, UsageError

# Flags whose default is worked out later; their help says how.
_later = partial(tyro.conf.arg, help_behavior_hint="")
OptionalInt = Annotated[int | None, _later(metavar="INT")]
OptionalFloat = Annotated[float | None, _later(metavar="FLOAT")]
OptionalStr = Annotated[str | None, _later(metavar="STR")]
OptionalPath = Annotated[Path | None, _later(metavar="PATH")]
Positional = tyro.conf.Positional
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Flags:
    """The flags that every experiment has.

    Attributes:
      keep_programs: whether compiled programs are kept from one run to the next;
        what times compiling does without.
    """

    keep_programs: ClassVar[bool] = True

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
    devices: OptionalInt = None
    """Devices to train on; if not given, one, or all that several processes have."""
    coordinator: OptionalStr = None
    """HOST:PORT of process 0, in each of several processes that train together."""
    num_processes: OptionalInt = None
    """How many processes train together."""
    process_id: OptionalInt = None
    """Which of them this is, from 0."""
    distributed: Switch = False
    """Instead of the three: as JAX finds them in SLURM, Open MPI, Kubernetes, TPUs."""

    @property
    def several(self) -> bool:
        """Whether this is one of several processes that train together."""
        return self.distributed or self.coordinator is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_1("--save-every", self.save_every)
        check_at_least_1("--devices", self.devices)
        check_at_least_1("--num-processes", self.num_processes)
        if self.resume and self.out:
            raise UsageError(
                f"--out must not be given with --resume {self.resume}, whose folder is "
                f"written to, got {self.out}"
            )
        self._check_processes()

    def _check_processes(self) -> None:
        names = ("coordinator", "num_processes", "process_id")
        given = {name: getattr(self, name) for name in names}
        missing = [name for name, value in given.items() if value is None]
        if self.distributed and len(missing) < len(names):
            raise UsageError(f"--distributed takes the place of {_flags(given)}")
        if missing and len(missing) < len(names):
            raise UsageError(f"{_flags(given)} go together, got no {_flags(missing)}")
        if self.coordinator is None:
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UsageError(f"--coordinator must be HOST:PORT, got {self.coordinator}")
        if not 0 <= (self.process_id or 0) < (self.num_processes or 0):
            raise UsageError(
                f"--process-id must be from 0 to {self.num_processes} - 1, "
                f"got {self.process_id}"
            )


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


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
    code = answer(lambda: _work(config_type, run))
    if code and ranks.watched():
        # Python's own exit would wait for the other processes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _work(config_type: type, run: Callable[[Any, Report], None]) -> int:
    config = parse(config_type)
    name = Path(run.__code__.co_filename).stem
    several = isinstance(config, TrainingFlags) and config.several
    if several and not ranks.watched():
        command = [sys.executable, "-m", f"experiments.{name}", *sys.argv[1:]]
        known = config.process_id is not None
        called = f"process {config.process_id}" if known else "this process"
        return ranks.watch([command], [called])
    if config.platform is not None:
        os.environ["JAX_PLATFORMS"] = config.platform
    if several:
        runtime.join(config.coordinator, config.num_processes, config.process_id)
    runtime.check_platform()
    runtime.draw_quickly()
    if config.keep_programs:
        runtime.keep_programs()
    else:
        runtime.compile_anew()
    run(config, Report(name, runtime.rank()))
    if several:
        runtime.leave()
    return 0


def answer(work: Callable[[], int]) -> int:
    """Return the exit code of some work; where it fails, one line says why."""
    try:
        return work()
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except Interrupted as stop:
        _complain(str(stop))
        return stop.code
    except Exception as error:
        code = _exit_code(error)
        if code is None and not ranks.watched():
            raise
        if code is None:
            return runtime.explain(error)
        _complain(str(error))
        return code


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


def _exit_code(error: Exception) -> int | None:
    """Return the exit code for an error that the user can mend, None for a bug."""
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, Failed):
        return 1
    if isinstance(error, LostPeer):
        return ranks.LOST

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
