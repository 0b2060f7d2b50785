"""The processes of one run on this machine, watched from outside.

A process whose peer is lost hangs in a sum that never ends, or is ended by JAX with
SIGABRT and a stack trace; neither can be caught in Python. So each is watched by a
process without JAX, which sees how it ends, says so in one line, and leaves nothing
running.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from experiments.common.errors import Interrupted, LostPeer

WATCHED = "CH4JAX_WATCHED"
LAUNCHER = "CH4JAX_LAUNCHER"
LOST = 75
GRACE_SECONDS = 2.0  # for the others to end for the same reason, once one has ended

# How XLA's log begins when the processes have lost each other, and what it then tells.
BREAKDOWN = re.compile(r"coordination_service|preemption_sync|JAX distributed service")
SILENT = re.compile(r"stopped sending heartbeats\):\n(.*?)\nThe tasks", re.DOTALL)
NOT_ALL = "RegisterTask"
NO_COORDINATOR = re.compile("Failed to send RPC|/Heartbeat|Socket closed")


class Rank:
    """A process of the run, started and watched.

    Attributes:
      name: as it is called in messages.
      code: the exit code once it has ended, negative for a signal.
      stopped: whether SIGSTOP or the like holds it.
      said: its lines on stderr, but for the breakdown.
      breakdown: what XLA logs once the processes have lost each other.
    """

    def __init__(
        self, name: str, command: Sequence[str], scratch: str, *, first: bool
    ) -> None:
        """Start it; only the first shares our stdout, and our stderr at once."""
        self.name = name
        self.code: int | None = None
        self.stopped = False
        self.said: list[str] = []
        self.breakdown = ""
        # In a session of its own, Ctrl-C reaches it only through the watcher; when the
        # watcher dies, it finds its stdin closed.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=None if first else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, WATCHED: "1", "TMPDIR": scratch},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(first,), daemon=True)
        self._reader.start()

    def look(self) -> None:
        """Find out whether it has ended or is stopped."""
        if self.code is not None:
            return
        pid, status = os.waitpid(self._process.pid, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            self.stopped = True
        elif pid:
            self.code = self._process.returncode = os.waitstatus_to_exitcode(status)

    def send(self, number: int) -> None:
        """Send it, and what it started, a signal."""
        if self.code is None:
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        """End it at once if it has not ended, and hear it out."""
        self.send(signal.SIGKILL)
        self._process.wait()
        self._reader.join(GRACE_SECONDS)
        assert self._process.stdin
        self._process.stdin.close()

    def _read(self, first: bool) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                if self.breakdown or BREAKDOWN.search(line):
                    self.breakdown += line
                elif not line.startswith("[Gloo]"):
                    self.said.append(line)
                    if first:
                        print(line, end="", file=sys.stderr, flush=True)


def watch(commands: Sequence[Sequence[str]], names: Sequence[str]) -> int:
    """Start the processes of a run, wait until they have ended, and leave none.

    The first prints as if it were alone. What the others say on stderr is shown in the
    end, with their names, unless it was said already. Ctrl-C and SIGTERM are passed on;
    a second one ends all at once.

    Returns:
      The exit code: of the first process that did not end well, or 0.

    Raises:
      LostPeer: if one was killed or stopped, or if they have lost each other.
      Interrupted: by the second signal.
    """
    ranks: list[Rank] = []
    deadline = float("inf")
    with (
        # What killed processes leave in it goes with it.
        tempfile.TemporaryDirectory(prefix="ch4jax-") as scratch,
        _passed_on(ranks) as signals,
    ):
        try:
            for name, command in zip(names, commands, strict=True):
                ranks.append(Rank(name, command, scratch, first=not ranks))
            while any(rank.code is None for rank in ranks) and len(signals) < 2:
                time.sleep(0.05)
                for rank in ranks:
                    rank.look()
                if any(rank.stopped or rank.code for rank in ranks):
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                if time.monotonic() > deadline:
                    break
        finally:
            for rank in ranks:
                rank.end()
    if signals and any(rank.code != 0 for rank in ranks):
        if len(signals) > 1:
            raise Interrupted("ended at once", signals[0])
        return 128 + signals[0]
    _show_others(ranks)
    return _verdict(ranks)


def _show_others(ranks: Sequence[Rank]) -> None:
    said: set[str] = set()
    for rank in ranks:
        if rank is not ranks[0]:
            for line in rank.said:
                if line not in said:
                    print(f"{rank.name}: {line}", end="", file=sys.stderr)
        said |= set(rank.said)


def _verdict(ranks: Sequence[Rank]) -> int:
    """Tell what ended the run from what followed; a code of None had to be ended."""
    for rank in ranks:
        if rank.stopped:
            raise LostPeer(f"{rank.name} was stopped, which ends the run")
    causes = [(rank.name, rank.code) for rank in ranks if not _follows(rank)]
    failed = [(name, code) for name, code in causes if code]
    for name, code in failed:
        if code < 0:
            how = signal.Signals(-code).name
            raise LostPeer(f"{name} was ended by {how}, which ends the run")
    if failed:
        return failed[0][1]
    for rank in ranks:
        if rank.code:
            left = [other.name for other in ranks if other.code is None]
            raise LostPeer(f"{_who(rank, left)}, which ends the run")
    return 0


def _follows(rank: Rank) -> bool:
    """Return whether a process ended because another one had."""
    return rank.code == LOST or (rank.code == -signal.SIGABRT and bool(rank.breakdown))


def _who(rank: Rank, left: Sequence[str]) -> str:
    if NOT_ALL in rank.breakdown:
        missing = " and ".join(left) or "one or more of the others"
        return f"{rank.name} waited in vain for {missing} to join"
    if silent := SILENT.search(rank.breakdown):
        numbers = re.findall(r"(\d+)\s*$", silent[1], re.MULTILINE)
        return f"nothing is heard any more of process {' and '.join(numbers)}"
    if NO_COORDINATOR.search(rank.breakdown):
        return "nothing is heard any more of process 0, the coordinator"
    return "a process was lost, and it is not known which"


@contextmanager
def _passed_on(ranks: Sequence[Rank]) -> Iterator[list[int]]:
    signals: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        signals.append(number)
        for rank in ranks:
            rank.send(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def watched() -> bool:
    """Return whether this process is one that `watch` started."""
    return WATCHED in os.environ
