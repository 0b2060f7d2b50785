"""Several processes: how they are started, watched and ended, and what they compute."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ch4jax.data import fashion_mnist
from experiments import dropout, launch
from experiments.common import ranks, resume
from experiments.common.console import Report
from experiments.common.errors import Interrupted, LostPeer, UsageError

OF_TWO = {"coordinator": "here:1", "num_processes": 2, "process_id": 0}
SLEEP = "import time; time.sleep(60)"
# What XLA logs in process 0 when process 2 of a run is silent, in others when process
# 0 is gone, and in all when one never joins; each ends the process with SIGABRT.
LOGS = {
    "silent": "E1123 19:27:28.3 1 coordination_service.cc:1549] Use error polling: "
    "The following tasks are unhealthy (stopped sending heartbeats):\n2\nThe tasks",
    "gone": "E1123 19:27:41.5 9 coordination_service_agent.cc:289] Polled an error\n"
    "Failed to send RPC to coordination service. Either the leader task was",
    "absent": "F1123 19:34:47.8 1 client.h:80] Terminating process because the JAX "
    "distributed service detected fatal errors.\nRPC: /xla.CoordinationService/Register"
    "Task",
}


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.3)


def watch(*codes):
    """Watch processes that run these pieces of Python."""
    names = [f"process {i}" for i in range(len(codes))]
    return ranks.watch([[sys.executable, "-c", code] for code in codes], names)


def abort(log):
    return f"import os, sys; print({LOGS[log]!r}, file=sys.stderr); os.abort()"


def children(pid=None):
    """Return the processes that a process, this one if not given, has started."""
    command = ["ps", "-o", "pid=,stat=,comm=", "--ppid", str(pid or os.getpid())]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [row.split() for row in found.stdout.splitlines()]
    return [int(pid) for pid, stat, name in rows if name != "ps" and "Z" not in stat]


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1]
    except OSError:
        return False


def wait_until(true, running=()):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        assert all(process.poll() is None for process in running), "ended too soon"
        time.sleep(0.05)


def test_processes_that_end_well_end_well(capfd):
    assert watch("print('first')", "print('second')") == 0
    assert capfd.readouterr() == ("first\n", "")


@pytest.mark.usefixtures("short_grace")
def test_the_code_of_the_one_that_fails_is_that_of_all():
    before = children()
    assert watch(SLEEP, "raise SystemExit(65)", SLEEP) == 65
    assert children() == before


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGKILL, "process 1 was ended by SIGKILL"),
        (signal.SIGSEGV, "process 1 was ended by SIGSEGV"),
        (signal.SIGSTOP, "process 1 was stopped"),
    ],
)
def test_one_that_is_killed_or_stopped_is_named_and_none_is_left(number, line):
    before = children()
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    with pytest.raises(LostPeer, match=line):
        watch("raise SystemExit(75)", code, abort("silent"), SLEEP)
    assert children() == before


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("silent", "nothing is heard any more of process 2,"),
        ("gone", "nothing is heard any more of process 0, the coordinator,"),
        ("absent", "process 0 waited in vain for process 1 to join,"),
    ],
)
def test_what_xla_logs_of_a_lost_process_becomes_one_line(log, line, capfd):
    with pytest.raises(LostPeer, match=line):
        watch(abort(log), SLEEP)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("short_grace")
def test_an_abort_of_its_own_is_shown_as_it_is(capfd):
    with pytest.raises(LostPeer, match="process 0 was ended by SIGABRT"):
        watch("import os, sys; print('why', file=sys.stderr); os.abort()", SLEEP)
    assert capfd.readouterr().err == "why\n"


def test_errors_of_the_others_are_shown_once_and_with_their_names(capfd):
    say = "import sys; print('error: {}', file=sys.stderr); raise SystemExit(2)".format
    assert watch(say("flag"), say("flag"), say("disk")) == 2
    assert capfd.readouterr().err == "error: flag\nprocess 2: error: disk\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process(number):
    orderly = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: exit(128 + number))
time.sleep(60)
"""
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    assert watch(orderly, orderly) == 128 + number


def test_a_second_signal_ends_what_does_not_heed_the_first():
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEP}"
    before = children()
    for seconds in (1.0, 1.2):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted) as stop:
        watch(deaf, deaf)
    assert stop.value.code == 130
    assert children() == before


def test_a_watched_process_ends_when_the_watcher_does(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    watched = "from experiments import runtime; runtime._end_with_the_watcher()"
    watcher = f"""
import sys
from experiments import ranks
ranks.watch([[sys.executable, "-c", {watched!r}]], ["process 0"])
"""
    process = subprocess.Popen([sys.executable, "-c", watcher])
    wait_until(lambda: children(process.pid))
    (child,) = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not alive(child))


def test_a_watched_process_leaves_a_second_signal_to_the_watcher(monkeypatch):
    monkeypatch.setenv(ranks.WATCHED, "1")
    with resume.postponed() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert noted == [signal.SIGINT] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": 0}, "--devices must be at least 1, got 0"),
        ({"num_processes": 0}, "--num-processes must be at least 1, got 0"),
        (
            {"coordinator": "here:1"},
            "go together, got no --num-processes, --process-id",
        ),
        ({"process_id": 1}, "go together, got no --coordinator, --num-processes"),
        (OF_TWO | {"coordinator": "here"}, "--coordinator must be HOST:PORT, got here"),
        (OF_TWO | {"process_id": 2}, "--process-id must be from 0 to 2 - 1, got 2"),
        (OF_TWO | {"process_id": -1}, "--process-id must be from 0 to 2 - 1, got -1"),
        ({"distributed": True} | OF_TWO, "--distributed takes the place of --coord"),
    ],
)
def test_flags_of_processes_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(UsageError, match=message) as error:
        dropout.Config(**flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--processes", "0", "--", "x"], "--processes must be at least 1, got 0"),
        (["--", "experiments.dropout"], "--processes"),
        (["--processes", "2"], "expected -- and what to run"),
    ],
)
def test_the_launcher_says_what_it_expects(args, message):
    with pytest.raises(UsageError, match=message):
        launch.main(args)


def test_the_command_to_go_on_is_that_of_the_launcher(monkeypatch):
    monkeypatch.setenv(ranks.LAUNCHER, "experiments.launch --processes 2 --")
    args = "dropout --seed 3 --coordinator here:1 --num-processes 2 --process-id 0"
    monkeypatch.setattr(sys, "argv", args.split())
    assert resume.command("dropout", Path("run")) == (
        "python -m experiments.launch --processes 2 -- "
        "experiments.dropout --seed 3 --resume run"
    )


EXPERIMENT = "experiments.dropout --data mini --hidden 16 8 --std 0.1 --platform cpu"


def launched(processes, *flags):
    """Return the command that starts a run of several processes."""
    name = ["experiments.launch", "--processes", str(processes), "--"]
    own = [] if processes == 1 else name
    return [sys.executable, "-m", *own, *EXPERIMENT.split(), *map(str, flags)]


def by_hand(processes, *flags):
    """Return the commands that start a run of several processes one by one."""
    address = f"127.0.0.1:{launch._free_port()}"
    joined = ["--coordinator", address, "--num-processes", processes, "--process-id"]
    return [launched(1, *flags, *joined, i) for i in range(processes)]


@contextmanager
def started(commands):
    """Lend running processes, whose stderr can be read, and end them afterwards."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for command in commands]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def outcome(folder):
    """Return what a run came to, without its times."""
    results = json.loads((folder / "summary.json").read_text())["results"]
    return [
        {name: value for name, value in row.items() if "seconds" not in name}
        for row in results + rows(folder)
    ]


def lose_one(commands, folder, victim, number):
    """Send a process a signal once there is a checkpoint.

    Returns:
      Of each command, the exit code and what it said on stderr.
    """
    with started(commands) as running:
        wait_until(lambda: list(folder.glob("checkpoints/*/*")), running)
        workers = [child for process in running for child in children(process.pid)]
        os.kill(workers[victim], number)
        end = time.monotonic() + 20
        ends = [
            (process.wait(end - time.monotonic()), process.stderr.read())
            for process in running
        ]
        assert not any(map(alive, workers))
    return ends


def without_end(folder):
    return "--epochs", 1_000_000, "--save-every", 1, "--out", folder


def test_a_killed_process_ends_the_run_which_was_that_of_one_process(tmp_path):
    command = launched(2, *without_end(tmp_path))
    ends = lose_one([command], tmp_path, 1, signal.SIGKILL)
    line = "error: process 1 was ended by SIGKILL, which ends the run\n"
    assert ends == [(75, line)]

    data = fashion_mnist.load("mini")
    config = dropout.Config(hidden=(16, 8), std=0.1, epochs=1, data="mini")
    config = dropout.settle(config, data)
    report = Report("dropout")
    report.metrics = lambda **_: None
    network = dropout.network_of(config, config.impl, config.rates)
    alone = dropout.train(config, network, data.on_device(), "", report).history
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(rows(tmp_path)[0][name], alone[name][0], rtol=1e-5)


KILL, STOP = signal.SIGKILL, signal.SIGSTOP
ENDS = {KILL: "was ended by SIGKILL", STOP: "was stopped"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("processes", "victim", "number"),
    [(2, 0, KILL), (2, 1, STOP), *((4, victim, KILL) for victim in range(4))],
)
def test_whichever_process_is_lost_the_launcher_names_it(
    processes, victim, number, tmp_path
):
    command = launched(processes, *without_end(tmp_path))
    line = f"error: process {victim} {ENDS[number]}, which ends the run\n"
    assert lose_one([command], tmp_path, victim, number) == [(75, line)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("processes", "victim", "number"),
    [(2, 0, KILL), (2, 1, STOP), (4, 0, STOP), (4, 2, KILL)],
)
def test_without_a_launcher_each_process_names_the_one_that_is_lost(
    processes, victim, number, tmp_path
):
    commands = by_hand(processes, *without_end(tmp_path))
    ends = lose_one(commands, tmp_path, victim, number)
    who = f"process {victim}" + ", the coordinator" * (victim == 0)
    expected = [
        (75, f"error: nothing is heard any more of {who}, which ends the run\n")
    ]
    expected *= processes
    expected[victim] = (
        75,
        f"error: process {victim} {ENDS[number]}, which ends the run\n",
    )
    assert ends == expected


@pytest.mark.long
def test_a_process_that_never_joins_is_not_waited_for_for_ever(tmp_path):
    first, _ = by_hand(2, *without_end(tmp_path))
    with started([first]) as (process,):
        assert process.wait(90) == 75
        assert process.stderr.read() == (
            "error: process 0 waited in vain for one or more of the others to join, "
            "which ends the run\n"
        )


@pytest.mark.long
def test_a_run_gone_on_with_after_a_loss_is_the_run_that_lost_none(tmp_path):
    lost, straight = tmp_path / "lost", tmp_path / "straight"
    flags = ("--epochs", 12, "--save-every", 1)
    subprocess.run(launched(2, *flags, "--out", straight), check=True)
    lose_one([launched(2, *flags, "--out", lost)], lost, 0, KILL)
    assert not (lost / "summary.json").exists()
    subprocess.run(launched(2, *flags, "--resume", lost), check=True)
    assert outcome(lost) == outcome(straight)


@pytest.mark.long
@pytest.mark.parametrize("seeds", [1, 4])
def test_one_two_and_four_processes_come_to_the_same(seeds, tmp_path):
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
def test_ctrl_c_saves_and_the_command_that_is_shown_goes_on(tmp_path):
    flags = ("--epochs", 12, "--out", tmp_path / "run")
    with started([launched(2, *flags)]) as (process,):
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text(), [process])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read()
    assert said.startswith("error: interrupted and saved after epoch")
    shown = said.rpartition("go on with: python -m ")[2].split()
    subprocess.run([sys.executable, "-m", *shown], check=True)
    straight = ("--epochs", 12, "--out", tmp_path / "straight")
    subprocess.run(launched(2, *straight), check=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
