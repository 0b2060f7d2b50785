"""Start the processes of one run on this machine; the first failure ends the others.

    python -m experiments.launch --processes 2 -- experiments.dropout --save-every 1

What follows `--` is what would follow `python -m`. Process 0 writes the run folder and
prints. On several machines, start the same command on each, with --coordinator,
--num-processes and --process-id, or with --distributed where JAX knows the cluster.
"""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.common import cli, signals
from experiments.common.errors import UsageError

GRACE_SECONDS = 5.0  # for the others to end by themselves after the first failure


@dataclass(frozen=True)
class Config:
    """Flags of the launcher; those of the experiment follow `--`."""

    processes: int
    """How many processes to start."""

    def __post_init__(self) -> None:
        """Check the flags."""
        cli.check_count("--processes", self.processes)


def run(config: Config, command: Sequence[str]) -> int:
    """Start the processes, wait for them, and leave none behind.

    Ctrl-C and SIGTERM are passed on; a second one ends all at once.

    Returns:
      The exit code: of the first process that failed, or 0.

    Raises:
      Interrupted: after a signal, once all have ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    typed = ["python", "-m", "experiments.launch", "--processes"]
    command_line = shlex.join([*typed, str(config.processes), "--", *command])
    joined = ["--coordinator", address, "--num-processes", str(config.processes)]
    joined.append("--process-id")
    processes: list[subprocess.Popen[bytes]] = []
    with signals.postponed() as received:
        try:
            for i in range(config.processes):
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command, *joined, str(i)],
                        stdout=None if i == 0 else subprocess.DEVNULL,
                        # Of the GPUs of this machine, one for each process.
                        env={"JAX_LOCAL_DEVICE_IDS": str(i), **os.environ}
                        | {signals.LAUNCHED_AS: command_line},
                        start_new_session=True,  # so that Ctrl-C arrives here alone
                    )
                )
            failed = _first_failure(processes, received)
            deadline = time.monotonic() + GRACE_SECONDS
            while failed and time.monotonic() < deadline:
                if all(process.poll() is not None for process in processes):
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return failed if failed >= 0 else 1  # below 0: ended by a signal


def _first_failure(
    processes: Sequence[subprocess.Popen[bytes]], received: Sequence[int]
) -> int:
    """Wait until a process fails or all have ended; return the code that is not 0.

    The first signal that is received meanwhile is passed on.
    """
    passed_on = False
    while True:
        if received and not passed_on:
            passed_on = True
            for process in processes:
                process.send_signal(received[0])
        codes = [process.poll() for process in processes]
        for i, code in enumerate(codes):
            if code:
                print(f"process {i} ended with code {code}", file=sys.stderr)
                return code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def main(args: list[str]) -> int:
    """Parse the flags before `--` and run what follows it.

    Raises:
      UsageError: if a flag is wrong, or if nothing follows `--`.
    """
    end = args.index("--") if "--" in args else len(args)
    config = cli.parse(Config, args[:end])
    command = args[end + 1 :]
    if not command:
        raise UsageError("expected -- and what to run, as in -- experiments.dropout")
    return run(config, command)


if __name__ == "__main__":
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
