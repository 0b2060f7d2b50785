"""Save and rotate in a process that is killed while it writes.

    python killed_writer.py FOLDER events N ...   is killed at the N-th file event
    python killed_writer.py FOLDER seconds T ...  is killed after T seconds
    python killed_writer.py FOLDER count          prints the events, and the seconds

Each N or T has its own process, which writes to FOLDER/N. File events are those that
Python audits (opening, renaming, creating and removing), and each fsync.
"""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from ch4jax import storage

STEPS = range(1, 4)
NAMED = {"open", "os.mkdir", "os.rename"}
UNNAMED = {"os.remove", "os.rmdir", "fsync"}  # the first two give no whole path


def state(step):
    """Return what step `step` saves."""
    return {"step": step, "x": np.arange(2000.0) * step, "y": np.full(3, step)}


def write(folder, returned):
    """Save and rotate checkpoints, and replace a tree, at each step."""
    checkpoints = storage.Checkpoints(folder / "checkpoints", keep=2)
    for step in STEPS:
        checkpoints.save(step, state(step))
        returned(f"checkpoint {step}")
        storage.save(folder / "tree", state(step))
        returned(f"tree {step}")


def child(folder, kind, when):
    """Write until killed; the file `returned` lists the saves that returned."""
    folder.mkdir(parents=True)
    log = os.open(folder / "returned", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    events = itertools.count(1)

    def hook(event, args):
        counts = event in UNNAMED or (event in NAMED and str(folder) in str(args[0]))
        if counts and next(events) == when and kind == "events":
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "seconds":
        signal.setitimer(signal.ITIMER_REAL, when)  # its signal ends a process
    fsync = os.fsync
    os.fsync = lambda descriptor: (hook("fsync", ()), fsync(descriptor))[1]
    sys.addaudithook(hook)
    start = time.perf_counter()
    write(folder, lambda line: os.write(log, f"{line}\n".encode()))
    if kind == "count":
        print(next(events) - 1, time.perf_counter() - start, flush=True)
    os._exit(0)


def main():
    """Fork a writer for each moment, before anything has started a thread."""
    folder, kind, *moments = sys.argv[1:]
    for moment in moments or ["0"]:
        process = os.fork()
        if process == 0:
            when = float(moment) if kind == "seconds" else int(moment)
            child(Path(folder) / moment, kind, when)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
