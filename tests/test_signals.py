"""Ctrl-C and SIGTERM: no command goes on, and nothing that was saved is torn."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_resume import outcome

from experiments.common import signals
from experiments.common.errors import Interrupted

DEAF = {
    "what a library catches": """
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass
""",
    "a finalizer, in which nothing can be raised": """
    class Slow:
        def __del__(self):
            time.sleep(60)
    Slow()
    time.sleep(60)
""",
    "a compiled program": """
    import jax
    jax.lax.fori_loop(0, 2**31 - 1, lambda i, x: x * 0.5, 1.0).block_until_ready()
""",
}


@pytest.mark.parametrize(
    ("where", "number"),
    [*zip(DEAF, [signal.SIGINT, *[signal.SIGTERM] * 2], strict=True)],
)
def test_a_signal_ends_the_process_wherever_it_arrives(where, number):
    script = f"""
import time
from experiments.common import cli, signals
def work():
    print("ready", flush=True){DEAF[where]}
signals.GRACE_SECONDS = 0.5
cli.sys.exit(cli.exit_code(work))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == f"error: {signals.WORDS[number]}\n"


@pytest.mark.parametrize(("launched", "noted"), [(False, 1), (True, 2)])
def test_a_signal_waits_for_the_end_of_a_block_and_a_second_one_does_not(
    launched, noted, monkeypatch
):
    monkeypatch.delenv(signals.LAUNCHED_AS, raising=False)
    if launched:  # then `launch` gets it, and ends this process
        monkeypatch.setenv(signals.LAUNCHED_AS, "python -m experiments.launch")
    steps = []

    def work():
        with signals.postponed() as received:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append(list(received))

    with pytest.raises(Interrupted, match="terminated") as stop, signals.raised():
        work()
    assert stop.value.code == 143
    assert [len(step) for step in steps] == [1, 2][:noted]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_signals_at_random_moments_end_the_run_and_lose_nothing(seed, tmp_path):
    draw = random.Random(seed)
    flags = "--data mini --no-lesson --epochs 6 --std 0.1 --hidden 16 8 --save-every 1"
    command = [sys.executable, "-m", "experiments.dropout", *flags.split()]
    folder, straight = tmp_path / "run", tmp_path / "straight"
    subprocess.run([*command, "--out", str(straight)], check=True)
    where, saved = ["--out", str(folder)], 0
    for _ in range(40):
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([*command, *where], **pipes) as process:
            # Importing, compiling, restoring, saving and drawing take some seconds.
            moment = draw.uniform(0.0, 8.0)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            code = process.wait(10)
            said = process.stderr.read()
        assert code in (0, 128 + number, -number), said  # below 0: while it imports
        assert "Traceback" not in said
        if (folder / "summary.json").exists():
            break
        assert code
        steps = len(list(folder.glob("checkpoints/*/*")))
        assert steps >= saved
        saved = steps
        if steps:
            where = ["--resume", str(folder)]
        else:
            where = ["--out", str(folder := tmp_path / f"run{draw.random()}")]
    assert outcome(folder) == outcome(straight)
