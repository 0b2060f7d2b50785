"""Checkpoints: rotation, damage, killed writers, resuming, other devices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed_writer import STEPS, state
from support import command, everything_in, metrics_fn, two_classes

from ch4jax import storage, training
from ch4jax.dropout import init_mlp
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage import atomic

WRITER = Path(__file__).parent / "killed_writer.py"


def filled(directory, steps=(1, 2, 3), keep=3):
    checkpoints = storage.Checkpoints(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, state(step))
    return checkpoints


def test_the_newest_steps_are_kept_and_the_newest_is_restored(tmp_path):
    checkpoints = filled(tmp_path, steps=(0, 1, 5, 10, 11))
    assert checkpoints.steps() == [5, 10, 11]
    np.testing.assert_equal(checkpoints.restore(), (11, state(11)))
    of_five = storage.Checkpoints(tmp_path).restore(state(0), step=5)
    np.testing.assert_equal(of_five, (5, state(5)))


def test_steps_only_go_up_and_at_least_one_is_kept(tmp_path):
    for checkpoints, last, step in (
        (filled(tmp_path), 3, 2),
        (storage.Checkpoints(tmp_path), 3, 3),
        (storage.Checkpoints(tmp_path / "empty"), -1, -1),
    ):
        with pytest.raises(ValueError, match=f"must be after {last},.* got {step}"):
            checkpoints.save(step, state(0))
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        storage.Checkpoints(tmp_path, keep=0)


def test_opening_creates_no_folder_and_restoring_from_none_is_an_error(tmp_path):
    checkpoints = storage.Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(Damaged, match="none holds no checkpoint"):
        checkpoints.restore()


def names_in(folder):
    return {path.name for path in folder.iterdir()}


FOREIGN = (  # none is begun, saved or removed by ch4jax, whatever its name
    *("notes", "7", "20240101", "00000000", "99999999", "00000004.copy"),
    *(".00000009.part", ".00000000.gone", ".00000002.old", ".notes.part", ".x.gone"),
)


@pytest.mark.parametrize("file", ["file", "manifest.json", "arrays/_METADATA"])
def test_folders_of_others_are_neither_listed_nor_removed(file, tmp_path):
    for name in FOREIGN:
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text('{"schema": 1, "name": "ch4jax"}')
    before = everything_in(tmp_path)
    checkpoints = filled(tmp_path, keep=1)
    assert checkpoints.steps() == storage.Checkpoints(tmp_path).steps() == [3]
    assert checkpoints.restore()[0] == 3
    assert everything_in(tmp_path).items() >= before.items()
    with pytest.raises(Refused, match="99999999 exists, and ch4jax did not write it"):
        checkpoints.save(99999999, state(4))
    assert everything_in(tmp_path).items() >= before.items()


def test_files_that_were_put_into_a_checkpoint_are_never_removed(tmp_path):
    checkpoints = filled(tmp_path, steps=(1, 2))
    for step in (1, 2):
        (tmp_path / f"{step:08d}" / "notes.txt").write_text("years of work")
    checkpoints.restore(step=1)
    with pytest.raises(Refused, match="00000002 holds what ch4jax did not write"):
        checkpoints.save(2, state(2))
    checkpoints = storage.Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, state(3))
    assert checkpoints.steps() == [1, 2, 3]
    assert len(list(tmp_path.rglob("notes.txt"))) == 2


def test_only_the_first_save_removes_what_was_killed(tmp_path):
    filled(tmp_path)
    (tmp_path / "00000001").rename(tmp_path / ".00000001.gone")
    for name in (".00000004.part", ".00000005.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".00000005.part" / "manifest.json").touch()
    before = everything_in(tmp_path)
    checkpoints = storage.Checkpoints(tmp_path)
    checkpoints.restore()
    assert everything_in(tmp_path) == before
    checkpoints.save(4, state(4))
    assert names_in(tmp_path) == {"00000002", "00000003", "00000004"}


# TensorStore's threads complain about a file that the writer removes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_reader_neither_harms_a_writer_nor_sees_half_a_step(tmp_path):
    code = (
        "import sys; from ch4jax import storage; from killed_writer import state\n"
        "checkpoints = storage.Checkpoints(sys.argv[1], keep=1)\n"
        "for step in range(1, 16): checkpoints.save(step, state(step))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(WRITER.parent), *sys.path])
    words, seen = [sys.executable, "-c", code, tmp_path], set()
    with subprocess.Popen(words, env=environment) as writer:
        while writer.poll() is None:
            if storage.Checkpoints(tmp_path).steps():
                step, restored = storage.Checkpoints(tmp_path).restore()
                np.testing.assert_equal(restored, state(step))
                seen.add(step)
    assert writer.returncode == 0
    assert len(seen) > 2
    assert storage.Checkpoints(tmp_path).steps() == [15]


def test_steps_that_a_writer_replaces_while_they_are_listed_are_listed_again(
    tmp_path, monkeypatch
):
    writer, reader = filled(tmp_path, keep=1), storage.Checkpoints(tmp_path)
    is_marked = atomic.is_marked

    def slow(folder, names):
        monkeypatch.undo()
        writer.save(4, state(4))
        return is_marked(folder, names)

    monkeypatch.setattr(atomic, "is_marked", slow)
    assert reader.steps() == [4]


def test_a_folder_under_the_name_of_another_step_is_found(tmp_path):
    checkpoints = filled(tmp_path)
    shutil.copytree(tmp_path / "00000002", tmp_path / "00000007")
    with pytest.warns(UserWarning, match="to step 3: .*0007 holds step 2: was it ren"):
        assert checkpoints.restore()[0] == 3


def test_a_step_may_be_an_array_that_is_donated_later(tmp_path):
    checkpoints, step = storage.Checkpoints(tmp_path), jnp.int32(1)
    checkpoints.save(step, state(1))
    step.delete()
    checkpoints.save(np.int64(2), state(2))
    assert checkpoints.restore(step=jnp.int32(1))[0] == 1
    assert checkpoints.steps() == [1, 2]


def test_a_failure_after_the_rename_says_what_is_in_place(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)
    sync = atomic._sync

    def fail(path):
        if path in (tmp_path, tmp_path / ".00000001.gone" / "arrays"):
            raise OSError("the disk is gone")
        sync(path)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "_sync", lambda path: fail(Path(path, ".")))
        with pytest.raises(OSError, match="0004 is in place and complete, but then: t"):
            checkpoints.save(4, state(4))
    np.testing.assert_equal(checkpoints.restore(step=4), (4, state(4)))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", fail)
        with pytest.raises(
            OSError, match="step 5 is saved, but an older one was not r"
        ):
            checkpoints.save(5, state(5))
    assert checkpoints.restore()[0] == 5
    checkpoints.save(6, state(6))
    storage.Checkpoints(tmp_path).save(7, state(7))
    assert names_in(tmp_path) == {"00000005", "00000006", "00000007"}


def test_a_step_that_is_half_removed_is_not_listed(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)

    def die_half_way(folder):
        next(folder.rglob("_METADATA")).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(4, state(4))
    monkeypatch.undo()
    assert checkpoints.steps() == [2, 3, 4]
    assert list(tmp_path.glob(".*"))
    reopened = storage.Checkpoints(tmp_path)
    assert reopened.restore()[0] == 4
    reopened.save(5, state(5))
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_newest_falls_back_and_says_which_and_why(tmp_path):
    checkpoints = filled(tmp_path)
    for step in (2, 3):
        file = next((tmp_path / f"{step:08d}").rglob("_METADATA"))
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"went back to step 1: .*0003: arrays/_META"):
        restored = checkpoints.restore(state(0))
    np.testing.assert_equal(restored, (1, state(1)))
    with pytest.raises(Damaged, match="00000003: arrays/_METADATA has the wrong SHA"):
        checkpoints.restore(step=3)
    checkpoints.save(2, state(2))
    assert checkpoints.steps() == [1, 2]
    for step in (1, 2):
        (tmp_path / f"{step:08d}" / "manifest.json").unlink()
    with pytest.raises(Damaged, match=r"02: manifest.*; .*01: manifest.json cannot"):
        checkpoints.restore(state(0))


def test_a_checkpoint_of_another_form_is_an_error_not_a_reason_to_go_back(tmp_path):
    checkpoints = filled(tmp_path)
    with pytest.raises(Mismatch, match=r"\['x'\]: float64\[2000\] was saved, expected"):
        checkpoints.restore({**state(0), "x": np.zeros(3)})


# Killed writers


def killed(folder, kind, moments):
    """Kill a writer at each of the moments; return the folders it left."""
    names = [str(moment) for moment in moments]
    done = command(str(WRITER), str(folder), kind, *names)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), [folder / name for name in names]


def assert_nothing_is_lost(folder):
    """Every save that returned is there, complete, and nothing else is."""
    lines = (folder / "returned").read_text().splitlines()
    returned = {"checkpoint": 0, "tree": 0} | dict(line.split() for line in lines)

    checkpoints = storage.Checkpoints(folder / "checkpoints", keep=2)
    steps = checkpoints.steps()
    for step in steps:
        np.testing.assert_equal(checkpoints.restore(step=step), (step, state(step)))
    newest = max(steps, default=0)
    # The writer may die after the rename, and before the save returns.
    assert newest - int(returned["checkpoint"]) in (0, 1)
    assert steps[-2:] == [step for step in (newest - 1, newest) if step > 0]
    checkpoints.save(9, state(9))
    left = names_in(folder / "checkpoints")
    assert left == {f"{step:08d}" for step in [*steps, 9][-2:]}

    tree = folder / "tree"
    if returned["tree"] or tree.exists():
        loaded = storage.load(tree)
        assert loaded["step"] - int(returned["tree"]) in (0, 1)
        np.testing.assert_equal(loaded, state(loaded["step"]))
    storage.save(tree, state(9))
    np.testing.assert_equal(storage.load(tree), state(9))
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("events", "moments"), [(8, 1), pytest.param(120, 40, marks=pytest.mark.long)]
)
def test_a_writer_killed_at_any_file_event_loses_no_committed_step(
    events, moments, tmp_path
):
    (made, seconds), _ = killed(tmp_path / "count", "count", [])
    points = np.linspace(1, int(made), events).astype(int)
    assert len(set(points)) == events
    times = np.random.default_rng(0).uniform(0, 1.2 * float(seconds), moments)
    _, folders = killed(tmp_path / "events", "events", points)
    folders += killed(tmp_path / "seconds", "seconds", times)[1]
    for folder in folders:
        assert_nothing_is_lost(folder)
    ends = {(folder / "returned").read_text() for folder in folders}
    assert len(ends) >= len(STEPS)  # the writers died at different times


# Resuming


def test_a_run_interrupted_after_any_epoch_ends_bit_for_bit_the_same(tmp_path):
    optimizer, data = optax.adam(0.01), two_classes()
    setting = {"metrics_fn": metrics_fn, "optimizer": optimizer, "batch_size": 16}

    def start():
        init_key, key = jax.random.split(jax.random.key(0))
        params = init_mlp((4, 16, 2), std=0.5, key=init_key)
        return training.init_state(params, optimizer), key

    def epoch(state, key, history):
        once = jax.random.clone(key)
        state, metrics = training.train_epoch(state, data, key=once, **setting)
        return state, key, [*history, np.asarray(metrics["loss"])]

    checkpoints, straight = storage.Checkpoints(tmp_path, keep=4), (*start(), [])
    for number in range(1, 5):
        straight = epoch(*straight)
        checkpoints.save(number, straight)
    for interrupted in range(1, 4):
        done, resumed = checkpoints.restore((*start(), ...), step=interrupted)
        for _ in range(done, 4):
            resumed = epoch(*resumed)
        jax.tree.map(np.testing.assert_array_equal, resumed[::2], straight[::2])
