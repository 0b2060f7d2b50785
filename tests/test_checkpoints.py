"""Checkpoints: rotation, damage, killed writers, resuming, other devices."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed_writer import STEPS, state

from ch4jax import storage, training
from ch4jax.dropout import init_mlp, mlp
from ch4jax.errors import Damaged, Mismatch, Refused
from ch4jax.storage import atomic
from ch4jax.training import population

WRITER = Path(__file__).parent / "killed_writer.py"


def filled(directory, steps=(1, 2, 3), keep=3):
    checkpoints = storage.Checkpoints(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, state(step))
    return checkpoints


def assert_is_step(step, restored):
    np.testing.assert_equal(restored, state(step))


def test_the_newest_steps_are_kept_and_the_newest_is_restored(tmp_path):
    checkpoints = filled(tmp_path, steps=(0, 1, 5, 10, 11))
    assert checkpoints.steps() == [5, 10, 11]
    step, restored = checkpoints.restore()
    assert step == 11
    assert_is_step(11, restored)
    step, restored = storage.Checkpoints(tmp_path).restore(state(0), step=5)
    assert step == 5
    assert_is_step(5, restored)


@pytest.mark.parametrize("keep", [1, 2])
def test_keep_is_how_many_are_kept(keep, tmp_path):
    assert filled(tmp_path, keep=keep).steps() == [2, 3][-keep:]
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        storage.Checkpoints(tmp_path, keep=0)


def test_steps_only_go_up(tmp_path):
    checkpoints = filled(tmp_path)
    for step in (2, 3):
        with pytest.raises(ValueError, match=f"step must be after 3.* got {step}"):
            checkpoints.save(step, state(step))
    with pytest.raises(ValueError, match=r"step must be after -1.* got -1"):
        storage.Checkpoints(tmp_path / "empty").save(-1, state(0))


def test_a_save_after_going_back_replaces_the_later_steps(tmp_path):
    checkpoints = filled(tmp_path)
    checkpoints.restore(step=1)
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.save(2, {"other": 2})
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore()[1] == {"other": 2}


def test_opening_creates_no_folder_and_restoring_from_none_is_an_error(tmp_path):
    checkpoints = storage.Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(Damaged, match="none holds no checkpoint"):
        checkpoints.restore()


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def everything_in(folder):
    return {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


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
    command, seen = [sys.executable, "-c", code, tmp_path], set()
    with subprocess.Popen(command, env=environment) as writer:
        while writer.poll() is None:
            if storage.Checkpoints(tmp_path).steps():
                step, restored = storage.Checkpoints(tmp_path).restore()
                assert_is_step(step, restored)
                seen.add(step)
    assert writer.returncode == 0
    assert len(seen) > 2
    assert storage.Checkpoints(tmp_path).steps() == [15]


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
    assert_is_step(4, checkpoints.restore(step=4)[1])
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
        step, restored = checkpoints.restore(state(0))
    assert step == 1
    assert_is_step(1, restored)
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
    command = [sys.executable, str(WRITER), str(folder), kind, *names]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), [folder / name for name in names]


def assert_nothing_is_lost(folder):
    """Every save that returned is there, complete, and nothing else is."""
    lines = (folder / "returned").read_text().split("\n")[:-1]
    returned = {"checkpoint": 0, "tree": 0}
    for line in lines:
        name, step = line.split()
        returned[name] = int(step)

    checkpoints = storage.Checkpoints(folder / "checkpoints", keep=2)
    steps = checkpoints.steps()
    for step in steps:
        assert_is_step(step, checkpoints.restore(step=step)[1])
    newest = max(steps, default=0)
    # The writer may die after the rename, and before the save returns.
    assert newest - returned["checkpoint"] in (0, 1)
    expected = [step for step in (newest - 1, newest) if step > 0]
    assert steps[-2:] == expected
    checkpoints.save(9, state(9))
    steps = [*steps, 9][-2:]
    left = {path.name for path in (folder / "checkpoints").glob("*")}
    assert left == {f"{step:08d}" for step in steps}

    if returned["tree"] or (folder / "tree").exists():
        step = storage.load(folder / "tree")["step"]
        assert step - returned["tree"] in (0, 1)
        assert_is_step(step, storage.load(folder / "tree"))
    storage.save(folder / "tree", state(9))
    assert_is_step(9, storage.load(folder / "tree"))
    assert not list(folder.glob(".*"))


def kill_points(folder, how_many):
    """Return file events spread over all that a writer makes, and its seconds."""
    (events, seconds), _ = killed(folder / "count", "count", [])
    points = np.linspace(1, int(events), how_many).astype(int)
    assert len(set(points)) == how_many
    return points, float(seconds)


def test_a_writer_killed_at_any_file_event_loses_no_committed_step(tmp_path):
    points, _ = kill_points(tmp_path, 8)
    for folder in killed(tmp_path, "events", points)[1]:
        assert_nothing_is_lost(folder)
    ends = {(tmp_path / str(n) / "returned").read_text() for n in points}
    assert len(ends) >= len(STEPS)  # the writers died at different times


@pytest.mark.long
def test_a_writer_killed_at_120_file_events_and_40_moments_loses_nothing(tmp_path):
    points, seconds = kill_points(tmp_path, 120)
    moments = np.random.default_rng(0).uniform(0, 1.2 * seconds, 40)
    _, folders = killed(tmp_path / "events", "events", points)
    folders += killed(tmp_path / "seconds", "seconds", moments)[1]
    for folder in folders:
        assert_nothing_is_lost(folder)


# Resuming


def metrics_fn(params, x, labels, *, key):
    return training.classification_metrics(mlp(params, x, (0.5,), key=key), labels)


def problem():
    x = jax.random.normal(jax.random.key(0), (50, 4))
    return x, (x[:, 0] > 0).astype(jnp.int32)


OPTIMIZER = optax.adam(0.01)
SETTING = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 16}


def start(members):
    """Return a state and the key of the run; of each member, if there are any."""
    seeds = jnp.arange(max(members, 1), dtype=jnp.uint32)
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds)
    if not members:
        params = init_mlp((4, 16, 2), std=0.5, key=keys[0, 0])
        return training.init_state(params, OPTIMIZER), keys[0, 1]
    params = jax.vmap(partial(init_mlp, (4, 16, 2), std=0.5))(key=keys[:, 0])
    return population.init_states(params, OPTIMIZER), keys[:, 1]


def epoch(members, state, key):
    key = jax.random.clone(key)
    if members:
        return population.train_epoch(state, problem(), keys=key, **SETTING)
    return training.train_epoch(state, problem(), key=key, **SETTING)


@pytest.mark.parametrize("members", [0, 3], ids=["one", "population"])
def test_a_run_interrupted_after_any_epoch_ends_bit_for_bit_the_same(members, tmp_path):
    run, key = start(members)
    checkpoints = storage.Checkpoints(tmp_path, keep=4)
    history = []
    for number in range(1, 5):
        run, metrics = epoch(members, run, key)
        history.append(np.asarray(metrics["loss"]))
        whole = {"run": run, "key": key, "history": history}
        checkpoints.save(number, whole)
    for interrupted in range(1, 4):
        like = {"run": start(members)[0], "key": start(members)[1], "history": ...}
        done, kept = checkpoints.restore(like, step=interrupted)
        resumed, rows = kept["run"], kept["history"]
        for _ in range(done, 4):
            resumed, metrics = epoch(members, resumed, kept["key"])
            rows.append(np.asarray(metrics["loss"]))
        jax.tree.map(np.testing.assert_array_equal, (resumed, rows), (run, history))
