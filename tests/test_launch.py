"""Several processes: how they are started and ended, and what they compute."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import rows
from test_resume import outcome

from experiments import dropout, launch
from experiments.common import cli, distributed
from experiments.common.errors import Failed, UsageError

EXPERIMENT = (
    "experiments.dropout --data mini --impl flax --no-lesson --hidden 16 8 --std 0.1 "
    "--platform cpu"
)
KILL, STOP = signal.SIGKILL, signal.SIGSTOP


def wait_until(true, running=()):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        assert all(process.poll() is None for process in running), "ended too soon"
        time.sleep(0.05)


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """Start the launcher on a module; its process i runs the i-th piece of Python."""
    script = "import sys\nexec(sys.argv[1 + int(sys.argv[-1])])\n"
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def run(*codes):
        work = partial(launch.run, launch.Config(len(codes)), ["script", *codes])
        return cli.exit_code(work)

    monkeypatch.setattr("warnings.showwarning", None)
    return run


def test_processes_that_end_well_end_well_and_the_first_prints(run_script, capfd):
    assert run_script("print('first')", "print('second')") == 0
    assert capfd.readouterr() == ("first\n", "")


@pytest.mark.parametrize(
    ("end", "code"),
    [("raise SystemExit(65)", 65), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_the_first_failure_ends_the_others_and_gives_the_code(
    end, code, run_script, tmp_path, capfd
):
    sleep = f"import os, time; open({str(tmp_path / 'pid')!r} + str(os.getpid()), 'x')"
    sleep += "; time.sleep(60)"
    assert run_script(sleep, end, sleep) == max(code, 1)
    assert f"process 1 ended with code {code}" in capfd.readouterr().err
    for file in tmp_path.glob("pid*"):
        assert not Path(f"/proc/{file.name.removeprefix('pid')}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process_and_a_second_ends_them(number, run_script):
    sleep = "import os, time; time.sleep(60)"
    send = f"import os, time; os.kill(os.getppid(), {int(number)}); time.sleep(0.5); "
    deaf = f"import signal; signal.signal({int(number)}, signal.SIG_IGN); "
    assert run_script(send + sleep, sleep) == 128 + number
    assert run_script(deaf + send * 2 + sleep, deaf + sleep) == 128 + number


def test_the_address_of_process_0_is_checked_before_jax_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Failed, match="Address already in use"):
            distributed.join(address, 2, 0)
    with pytest.raises(UsageError, match=r"--coordinator here\.invalid:1: "):
        distributed.join("here.invalid:1", 2, 1)
    for host in ("a..b", 70 * "a"):  # no names of hosts
        with pytest.raises(UsageError, match=f"--coordinator {host}:1: "):
            distributed.check_address(f"{host}:1", bind=True)


def test_the_launcher_says_what_it_expects():
    with pytest.raises(UsageError, match=r"--processes must be at least 1 .* got 0"):
        launch.main(["--processes", "0", "--", "x"])
    with pytest.raises(UsageError, match="expected -- and what to run"):
        launch.main(["--processes", "2"])


def launched(processes, *flags):
    """Return the command that starts a run of several processes."""
    launcher = ["experiments.launch", "--processes", str(processes), "--"]
    own = [] if processes == 1 else launcher
    return [sys.executable, "-m", *own, *EXPERIMENT.split(), *map(str, flags)]


@contextmanager
def started(commands):
    """Yield running processes, whose stderr can be read, and end them afterwards."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for command in commands]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def without_end(folder):
    return "--epochs", 1_000_000, "--save-every", 1, "--out", folder


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(child) for child in found.split())


def test_a_killed_process_ends_the_run_whose_numbers_are_those_of_one(tmp_path):
    with started([launched(2, *without_end(tmp_path / "two"))]) as (process,):
        wait_until(lambda: list((tmp_path / "two").glob("checkpoints/*/*")), [process])
        workers = children(process.pid)
        os.kill(workers[1], KILL)
        assert process.wait(40) == 1
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    one = [*EXPERIMENT.split()[1:], "--epochs", "1", "--out", str(tmp_path / "one")]
    dropout.run(cli.parse(dropout.Config, one))
    one, two = (rows(tmp_path / name)[0] for name in ("one", "two"))
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("victim", "number"), [(0, KILL), (1, KILL), (0, STOP), (1, STOP)]
)
def test_without_a_launcher_the_others_end_within_40_seconds(victim, number, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = ["--coordinator", address, "--num-processes", 2, "--process-id"]
    commands = [launched(1, *without_end(tmp_path), *joined, i) for i in range(2)]
    with started(commands) as running:
        wait_until(lambda: list(tmp_path.glob("checkpoints/*/*")), running)
        running[victim].send_signal(number)
        assert running[1 - victim].wait(40) != 0


@pytest.mark.long
def test_a_process_that_never_joins_is_not_waited_for_for_ever(tmp_path):
    joined = ["--coordinator", "127.0.0.1:13579", "--num-processes", 2]
    first = launched(1, *without_end(tmp_path), *joined, "--process-id", 0)
    with started([first]) as (process,):
        assert process.wait(90) != 0


@pytest.mark.long
@pytest.mark.parametrize("seeds", [1, 4])
def test_one_two_and_four_processes_compute_the_same(seeds, tmp_path):
    runs = []
    for processes in (1, 2, 4):
        out = tmp_path / str(processes)
        flags = ("--epochs", 2, "--seeds", seeds, "--out", out)
        subprocess.run(launched(processes, *flags), check=True)
        runs.append(rows(out))
    for ours in zip(*runs, strict=True):
        for name in ("train_loss", "test_loss"):
            one, *others = (row[name] for row in ours)
            np.testing.assert_allclose(others, [one] * 2, rtol=1e-5)


@pytest.mark.long
def test_a_run_resumed_after_a_loss_or_ctrl_c_is_the_run_that_lost_nothing(tmp_path):
    flags = ("--epochs", 12, "--save-every", 1)
    straight, lost, stopped = (tmp_path / name for name in ("straight", "lost", "stop"))
    subprocess.run(launched(2, *flags, "--out", straight), check=True)
    with started([launched(2, *flags, "--out", lost)]) as (process,):
        wait_until(lambda: list(lost.glob("checkpoints/*/0*")), [process])
        os.kill(children(process.pid)[0], KILL)
        assert process.wait(40) == 1
    assert not (lost / "summary.json").exists()
    subprocess.run(launched(2, *flags, "--resume", lost), check=True)
    assert outcome(lost) == outcome(straight)

    with started([launched(2, "--epochs", 12, "--out", stopped)]) as (process,):
        metrics = stopped / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text(), [process])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read()
    shown = re.search(r"resume by: python -m (experiments.launch.*)", said)[1].split()
    subprocess.run([sys.executable, "-m", *shown], check=True)
    assert outcome(stopped) == outcome(straight)
