"""Going on with a run: what may differ from it, and how it is interrupted."""

import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.common import ranks
from experiments.common.errors import UsageError

PROCESSES = {"coordinator", "num_processes", "process_id", "distributed"}
MAY_DIFFER = {"out", "platform", "resume", "save_every", "devices"} | PROCESSES


def check(folder: Path, config: dict[str, Any], environment: dict[str, Any]) -> None:
    """Hold a run against the one in `folder` that it is to go on with.

    Warns of what may change the last bits: versions and devices.

    Raises:
      UsageError: if a flag is not what it was, but for more epochs.
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
            f"the run goes on, but not bit for bit: {', '.join(changed)}", stacklevel=2
        )


def command(name: str, folder: Path) -> str:
    """Return the command that goes on with the run in `folder`."""
    launcher = os.environ.get(ranks.LAUNCHER, "")
    dropped = {"--out", "--resume"}
    if launcher:  # which gives these
        dropped |= {"--coordinator", "--num-processes", "--process-id"}
    args = iter(sys.argv[1:])
    kept = []
    for arg in args:
        if arg.partition("=")[0] not in dropped:
            kept.append(arg)
        elif "=" not in arg:
            next(args, None)
    module = [*launcher.split(), f"experiments.{name}"]
    return shlex.join(["python", "-m", *module, *kept, "--resume", str(folder)])


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM in the list that is lent; a second one acts at once.

    A process that is watched leaves that to the watcher: a cluster may send the first
    to both, and the watcher passes it on.
    """
    noted: list[int] = []
    previous = {}

    def note(number: int, _: Any) -> None:
        noted.append(number)
        if not ranks.watched():
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
    except (OSError, ValueError):
        raise UsageError(
            f"--resume {path.parent} must be the folder of a run; there is no sound "
            f"{path.name} in it"
        ) from None
