"""Start the processes of one run on this machine, and end all when one is lost.

    python -m experiments.launch --processes 2 -- experiments.dropout --save-every 1

What follows `--` is what would follow `python -m`. Process 0 writes the run folder and
what is printed; errors of the others are shown with their number. On several machines,
start the same command on each, with --coordinator, --num-processes and --process-id, or
with --distributed where there is a cluster that JAX knows.
"""

import os
import socket
import sys
from dataclasses import dataclass

from experiments.common import cli, ranks
from experiments.common.errors import UsageError


@dataclass(frozen=True)
class Config:
    """Flags of the launcher; those of the experiment follow `--`."""

    processes: int
    """How many processes to start."""

    def __post_init__(self) -> None:
        """Check the flags."""
        cli.check_at_least_1("--processes", self.processes)


def main(args: list[str]) -> int:
    """Run from the command line; returns the exit code.

    Raises:
      UsageError: if a flag is wrong, or if nothing follows `--`.
      LostPeer: if a process is lost.
    """
    end = args.index("--") if "--" in args else len(args)
    config = cli.parse(Config, args[:end])
    command = args[end + 1 :]
    if not command:
        raise UsageError("expected -- and what to run, -- experiments.dropout say")
    count = config.processes
    os.environ[ranks.LAUNCHER] = f"experiments.launch --processes {count} --"
    address = f"127.0.0.1:{_free_port()}"
    os.environ.setdefault("JAX_COORDINATOR_BIND_ADDRESS", address)
    joined = ["--coordinator", address, "--num-processes", f"{count}", "--process-id"]
    python = [sys.executable, "-m", *command, *joined]
    return ranks.watch(
        [[*python, f"{i}"] for i in range(count)],
        [f"process {i}" for i in range(count)],
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(cli.answer(lambda: main(sys.argv[1:])))
