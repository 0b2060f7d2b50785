"""Ctrl-C and SIGTERM: no command goes on, and nothing that was saved is torn."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_resume import outcome

from ch4jax import storage
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
    "a class that is being made, which raises an error of its own": """
    class Slow:
        def __set_name__(self, owner, name):
            time.sleep(60)
    type("Owner", (), {"slow": Slow()})
""",
    "a compiled program": """
    import jax
    jax.lax.fori_loop(0, 2**31 - 1, lambda i, x: x * 0.5, 1.0).block_until_ready()
""",
}


@pytest.mark.parametrize(
    ("where", "number"),
    [*zip(DEAF, [signal.SIGINT, *[signal.SIGTERM] * 3], strict=True)],
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


MOMENTS = 30  # for each seed; 20 seeds send 200 of each signal
TRAINED = "--data mini --no-lesson --epochs 6 --std 0.1 --hidden 16 8 --save-every 1"
ALSO = (
    *("experiments.house_prices --recipe search --epochs 20", "experiments.layers"),
    *("experiments.weight_decay --epochs 400", "experiments.storage"),
    *("experiments.backprop", "experiments.initialization --epochs 2 --seeds 1"),
)


def signalled(command, number, moment):
    """Run a command, send it a signal, and return its code; check what it says."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", *command], **pipes) as process:
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        code = process.wait(20)
        said = process.stderr.read()
    # Below 0 while it imports, or killed.
    assert code in (0, 128 + number, -number), said
    assert "Traceback" not in said or code < 0  # Python's own, for Ctrl-C
    return code


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_signals_at_random_moments_end_the_run_and_lose_nothing(seed, tmp_path):
    draw = random.Random(seed)
    command = ["experiments.dropout", *TRAINED.split()]
    folder, straight = tmp_path / "run", tmp_path / "straight"
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *command, "--out", str(straight)], check=True)
    longest = time.monotonic() - start  # starting, compiling, saving and drawing
    where, saved = ["--out", str(folder)], 0
    for i in range(MOMENTS):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[i % 3]
        if i % 5 == 4:
            other = draw.choice(ALSO).split()
            out = tmp_path / f"other{i}"
            code = signalled(
                [*other, "--out", str(out)], number, draw.uniform(0, longest)
            )
            assert code or (out / "summary.json").exists()
            continue
        code = signalled([*command, *where], number, draw.uniform(0, longest))
        if (folder / "summary.json").exists():
            assert outcome(folder) == outcome(straight)
            shutil.rmtree(folder)
        else:
            assert code
        of_networks = map(storage.Checkpoints, folder.glob("checkpoints/*/"))
        steps = sum(max(found.steps(), default=0) for found in of_networks)
        assert steps >= saved or not folder.exists()
        saved = steps
        where = ["--resume" if saved else "--out", str(folder)]
        if not saved:
            shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", *command, *where], check=True)
    assert outcome(folder) == outcome(straight)
