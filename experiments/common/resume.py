"""Interrupting and resuming a run: what may differ, and what ends it."""

import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.common.errors import UsageError

LAUNCHED_AS = "CH4JAX_LAUNCHED_AS"  # `launch` passes on the command that you typed
MAY_DIFFER = {
    *("out", "platform", "resume", "save_every", "devices"),
    *("coordinator", "num_processes", "process_id", "distributed"),
}


def check(
    folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> None:
    """Compare a run with the one in `folder` that it is to resume.

    Warns about what may change the last bits: versions and devices.

    Raises:
      UsageError: if a flag differs, except for more epochs.
    """
    saved, ran_in = (_read(folder / name) for name in ("config.json", "env.json"))
    differ = [
        f"--{name.replace('_', '-')} was {saved.get(name)} and is {value}"
        for name, value in config.items()
        if name not in MAY_DIFFER and value != saved.get(name)
        if name != "epochs" or value < saved.get(name, 0)
    ]
    if differ:
        raise UsageError(f"--resume {folder}: {', '.join(differ)}; expected the same")
    before, now = (
        {
            "devices": env.get("devices"),
            "processes": env.get("processes", 1),
            **env.get("packages", {}),
        }
        for env in (ran_in, environment)
    )
    changed = [
        f"{name} was {before.get(name)} and is {value}"
        for name, value in now.items()
        if value != before.get(name)
    ]
    if changed:
        warnings.warn(
            f"the run resumes, but not bit for bit: {', '.join(changed)}", stacklevel=2
        )


def command(name: str, folder: Path | None = None) -> str:
    """Return the command that was typed, or the one that resumes its run in `folder`.

    Either way without --out and --resume, whose folders this run has used.
    """
    typed = ["python", "-m", f"experiments.{name}", *sys.argv[1:]]
    words = iter(shlex.split(os.environ.get(LAUNCHED_AS, "")) or typed)
    kept = []
    for word in words:
        if word.partition("=")[0] not in ("--out", "--resume"):
            kept.append(word)
        elif "=" not in word:
            next(words, None)
    return shlex.join([*kept, "--resume", str(folder)] if folder else kept)


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM in the list that is yielded; a second one acts at once.

    `launch` passes signals on, so that one from a cluster may arrive twice; a process
    that it started leaves the second to it.
    """
    noted: list[int] = []
    previous = {}

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)
        if LAUNCHED_AS not in os.environ:
            signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume {path.parent} must be the folder of a run; there is no sound "
            f"{path.name} in it"
        ) from error
