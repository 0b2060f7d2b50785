"""The storage experiment from the flags to the summary."""

import pytest
from support import result_of

from experiments import storage
from experiments.common.errors import Failed


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(storage, "ROUNDS", 1)


def test_all_comes_back_no_flip_is_loaded_and_no_kill_loses_a_step(tmp_path, capsys):
    summary = result_of(storage, storage.Config(out=tmp_path, flips=30, kills=1))
    names = {"x", "x-and-y", "xy", "mlp.params", "exported"}
    assert summary["came_back"] == dict.fromkeys(names, True)
    assert sum(summary["flips"].values()) == 30
    assert "wrong numbers" not in summary["flips"]
    (kill,) = summary["kills"]
    assert kill["exact"]
    assert kill["restored"] >= kill["saved"] >= 1
    assert kill["left_after"] == []
    shown = ("x: [0 1 2 3]", "cut short, restored step 1: ", "has the wrong SHA-256")
    out = capsys.readouterr().out
    assert all(text in out for text in shown)


def test_a_load_that_lies_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "equal", lambda a, b: False)
    monkeypatch.setattr(storage, "kill_writer", lambda *_: [])
    with pytest.raises(Failed, match="not saved or restored exactly"):
        storage.run(storage.Config(out=tmp_path, flips=1, kills=1))
    assert not (tmp_path / "summary.json").exists()
