"""Interrupted and resumed equals uninterrupted, bit for bit, and what is refused."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from support import everything_in, read, rows
from test_experiment_dropout import FLAX

from ch4jax.errors import DataError
from experiments import dropout
from experiments.common import resume, run_folder, signals
from experiments.common.errors import Interrupted, UsageError
from experiments.common.run_folder import RunFolder

SMALL = replace(FLAX, epochs=3, learning_rate=0.1)


def outcome(folder):
    """Return results and metrics of a run, without its times."""
    return [
        {name: value for name, value in row.items() if "seconds" not in name}
        for row in read(folder)["results"] + rows(folder)
    ]


def run(config):
    dropout.run(config)
    return outcome(config.resume or config.out)


@pytest.mark.parametrize(
    ("after", "number", "seeds"),
    [(1, signal.SIGINT, 1), (2, signal.SIGTERM, 2), (5, signal.SIGINT, 2)],
)
def test_an_interrupted_and_resumed_run_is_the_run_that_never_stopped(
    after, number, seeds, few_images, tmp_path, monkeypatch
):
    metrics, epochs = RunFolder.metrics, itertools.count(1)

    def interrupted(folder, **row):
        metrics(folder, **row)
        if next(epochs) == after:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "metrics", interrupted)
    config = replace(SMALL, seeds=seeds, out=tmp_path / "interrupted")
    with pytest.raises(Interrupted, match=r"after epoch \d; resume by: pyth") as stop:
        dropout.run(config)
    assert stop.value.code == 128 + number
    assert not (config.out / "summary.json").exists()
    resumed = run(replace(config, out=None, resume=config.out))
    assert resumed == run(replace(config, out=tmp_path / "straight"))


def damage(folder):
    """Cut off the ends of the checkpoints of the second network."""
    for manifest in folder.glob("checkpoints/flax-no*/*/manifest.json"):
        manifest.write_text(manifest.read_text()[:-3])


def fifo(file):
    file.unlink()
    os.mkfifo(file)


def folder(file):
    file.unlink()
    file.mkdir()


def swap(folder):
    first, second = folder.glob("checkpoints/*")
    first.rename(folder / "elsewhere")
    second.rename(first)
    (folder / "elsewhere").rename(second)


UNFIT = {
    "is finished; --epochs must be above 2": lambda run: None,
    "is not JSON": damage,
    "saved no checkpoint": lambda run: shutil.rmtree(run / "checkpoints"),
    "no sound config.json": lambda run: (run / "config.json").write_text("[]"),
    "no sound env.json": lambda run: fifo(run / "env.json"),
    "cannot be written: Is a directory": lambda run: folder(run / "summary.json"),
    "sound env.json in": lambda run: (run / "env.json").write_text('{"packages": []}'),
    " is of flax, no dropout, not of ": swap,
}


def test_a_run_that_cannot_be_resumed_keeps_every_file(few_images, tmp_path):
    config = replace(SMALL, hidden=(4, 4), epochs=2, save_every=1, out=tmp_path / "run")
    dropout.run(config)
    for line, change in UNFIT.items():
        unfit = shutil.copytree(config.out, tmp_path / line)
        change(unfit)
        before = everything_in(unfit)
        epochs = 2 if "finished" in line else 3
        again = replace(config, epochs=epochs, out=None, resume=unfit)
        with pytest.raises((UsageError, DataError), match=line):
            dropout.run(again)
        assert everything_in(unfit) == before


def test_a_finished_run_resumes_to_more_epochs(few_images, tmp_path):
    short = replace(SMALL, epochs=2, save_every=1, out=tmp_path / "run")
    run(short)
    longer = run(replace(short, epochs=3, out=None, resume=short.out))
    assert longer == run(replace(SMALL, out=tmp_path / "straight"))


def test_a_run_is_resumed_by_one_process_at_a_time(tmp_path):
    config = replace(SMALL, resume=tmp_path / "run")
    RunFolder.create("dropout", replace(SMALL, out=config.resume))
    RunFolder.create("dropout", config)
    before = everything_in(tmp_path)
    run_folder.lock(tmp_path)  # no longer the run
    other = os.open(config.resume, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another process trains there"):
        RunFolder.create("dropout", config)
    assert everything_in(tmp_path) == before
    os.close(other)
    RunFolder.create("dropout", config)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"learning_rate": 0.2}, "--learning-rate was 0.1 and is 0.2"),
        ({"seed": 1}, "--seed was 0 and is 1"),
        ({"seeds": 2}, "--seeds was 1 and is 2"),
        ({"epochs": 1}, "--epochs was 2 and is 1"),
        ({"batch_size": 32}, "--batch-size was 64 and is 32"),
    ],
)
def test_resuming_with_other_flags_is_refused(change, line, few_images, tmp_path):
    config = replace(SMALL, epochs=2, out=tmp_path)
    RunFolder.create("dropout", config, {"data": "mini"})
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UsageError) as error:
        run(replace(config, out=None, resume=tmp_path, **change))
    assert line in str(error.value)
    assert (tmp_path / "config.json").read_text() == before


def test_other_versions_and_devices_are_warned_of(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    env = {"devices": ["cpu"], "packages": {"jax": "0.10.2"}}
    (tmp_path / "env.json").write_text(json.dumps(env))
    resume.check(tmp_path, {}, env)
    with pytest.warns(UserWarning, match="devices was .* jax was 0.10.2 and is 0.11.0"):
        resume.check(tmp_path, {}, {"devices": ["gpu"], "packages": {"jax": "0.11.0"}})


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("jax_threefry_partitionable", False, True),
        ("jax_default_prng_impl", "rbg", True),
        ("jax_random_seed_offset", 1, True),
        ("jax_enable_x64", True, True),
        ("jax_default_matmul_precision", "highest", False),
    ],
)
def test_settings_of_jax_that_change_numbers_are_recorded_and_compared(
    name, value, refused, tmp_path, settings
):
    folder = RunFolder.create("dropout", replace(SMALL, out=tmp_path / "run"))
    again = replace(SMALL, resume=folder.path)
    message = f"{name} was {jax.config.values[name]} and is {value}"
    expected = pytest.raises if refused else pytest.warns
    jax.config.update(name, value)
    with expected(UsageError if refused else UserWarning, match=message):
        RunFolder.create("dropout", again)


def test_the_command_that_resumes_keeps_the_flags(monkeypatch):
    args = ["dropout", "--seed", "3", "--out", "old", "--resume=older", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", args)
    kept = "experiments.dropout --seed 3 --seeds 2"
    assert resume.command("dropout") == f"python -m {kept}"
    assert resume.command("dropout", Path("run")) == f"python -m {kept} --resume run"
    launched = "python -m experiments.launch --processes 2 -- experiments.dropout"
    monkeypatch.setenv(signals.LAUNCHED_AS, f"{launched} --out old --seed 3")
    again = resume.command("dropout", Path("run"))
    assert again == f"{launched} --seed 3 --resume run"
