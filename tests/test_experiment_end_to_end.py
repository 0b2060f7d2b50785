"""Whole commands are timed in turn, the first without compiled programs."""

import os
import sys
import tempfile

import pytest
import torch
from support import result_of

from ch4jax.data import fashion_mnist
from experiments import dropout, end_to_end
from experiments.common import cli, roofline
from experiments.common.errors import Failed, UsageError
from experiments.pytorch import script

# Leaves a program in the cache, and takes two seconds if there was none.
CACHES = """
import os, pathlib, time
cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
if not cache.exists():
    time.sleep(2)
cache.mkdir(exist_ok=True)
"""


def test_rounds_after_the_first_find_what_it_compiled(tmp_path, monkeypatch):
    ours, theirs = ([sys.executable, "-c", code] for code in (CACHES, "pass"))
    named = {end_to_end.OURS: ours, end_to_end.THEIRS: theirs}
    monkeypatch.setattr(end_to_end, "commands", lambda seed, data, out: named)
    config = end_to_end.Config(rounds=2, data="mini", out=tmp_path)
    summary = result_of(end_to_end, config)
    first, warm, theirs = summary["commands"]
    assert [len(e["rounds"]) for e in (first, warm, theirs)] == [1, 2, 3]
    assert first["fastest"] > 2
    assert warm["fastest"] < first["fastest"]
    assert theirs["ratios"] == [1, 1, 1]
    assert warm["ratios"] == [
        theirs["rounds"][i + 1] / warm["rounds"][i] for i in range(2)
    ]
    spreads = [e["slowest"] / e["fastest"] for e in summary["commands"]]
    assert summary["quiet"] == (max(spreads) <= 1.5)


def test_a_command_that_fails_ends_the_measurement_and_is_named():
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(Failed, match="ours ended with exit code 3, expected 0"):
        end_to_end.measure("ours", fails, os.environ)


def test_memory_below_our_own_is_unknown(monkeypatch):
    command = [sys.executable, "-c", "x = bytearray(300_000_000)"]
    monkeypatch.setattr(roofline, "peak_memory_mb", lambda: 200.0)
    assert end_to_end.measure("x", command, os.environ).peak_memory_mb > 300
    monkeypatch.setattr(roofline, "peak_memory_mb", lambda: 1e9)
    assert end_to_end.measure("x", command, os.environ).peak_memory_mb is None


def test_our_command_does_the_work_of_the_script(tmp_path):
    data = fashion_mnist.load("mini")
    ours, theirs = end_to_end.commands(3, data, tmp_path).values()
    config = cli.parse(dropout.Config, ours[3:])
    assert ours[:3] == [sys.executable, "-m", "experiments.dropout"]
    assert (config.data, config.seed, config.figures) == ("mini", 3, False)
    assert config.impl == "flax"
    for name in ("epochs", "batch_size", "learning_rate"):
        assert getattr(config, name) == getattr(script, name.upper())
    assert theirs[2:] == ["experiments.pytorch.script", str(data.folder), "3"]


def test_the_script_trains_both_networks(capsys, monkeypatch):
    folder = fashion_mnist.load("mini").folder
    monkeypatch.setattr(script, "EPOCHS", 1)
    monkeypatch.setattr(sys, "argv", ["script", str(folder), "0"])
    script.main()
    labels = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    nets = "dropout (0.2, 0.5)", "dropout (0.0, 0.0)"
    assert labels == [f"{net}{part}" for net in nets for part in (", epoch 1", "")]


def test_the_script_counts_right_answers_with_nothing_dropped():
    net = torch.nn.Sequential(torch.nn.Dropout(0.99), torch.nn.Identity())
    labels = torch.arange(10).repeat(500)
    logits = torch.nn.functional.one_hot(labels, 10).float()
    assert script.accuracy(net, logits, labels) == 1
    assert script.accuracy(net, logits, (labels + 1) % 10) == 0
    assert net.training


def test_images_that_the_script_cannot_read_are_refused(tmp_path, monkeypatch):
    data = fashion_mnist.load("mini")._replace(folder=tmp_path)
    monkeypatch.setattr(fashion_mnist, "load", lambda source: data)
    with pytest.raises(UsageError, match=r"packed \(\.gz\), .* got "):
        end_to_end.run(end_to_end.Config(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_real_commands_end_well_and_leave_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "scratch").mkdir()
    config = end_to_end.Config(rounds=1, data="mini", out=tmp_path / "run")
    summary = result_of(end_to_end, config)
    assert all(entry["median"] > 1 for entry in summary["commands"])
    # PyTorch leaves a folder of its own there.
    assert list((tmp_path / "scratch").glob("ch4jax-*")) == []
