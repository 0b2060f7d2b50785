"""Commands, flags, folders, damage, faults of the disk and signals; four laws hold.

1. Nothing that is not ours changes.
2. Exit code 0 means the right result: that of the same flags in a folder of its own.
3. An error has no traceback: it is one line of ours or the box of tyro, and its code.
4. The command ends in time.

`--hypothesis-seed=1` draws other cases, CH4JAX_ATTACKS=50 as many sequences of them.
"""

import dataclasses
import errno
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ch4jax import interop, storage
from ch4jax.data.files import read_object
from ch4jax.errors import Refused

COMMANDS = {
    "dropout": "--data mini --no-lesson --no-figures --impl flax --hidden 4 4 --std 0.1"
    " --batch-size 3000",
    "blocks": "",
    "house_prices": "--folds 2 --epochs 1 --seeds 1",
    "layers": "",
    "parameters": "",
    "weight_decay": "--epochs 2 --lambdas 2 --seeds 1 --inputs 3",
    "backprop": "--hidden 4 --batch-size 8",
    "storage": "--flips 2 --kills 1",
}
VARY = re.compile("second|memory|kills|flips")  # from one moment to the next
NUMBERS = ("-1", "0", str(2**31), str(2**64), "nan", "inf", "-inf", "1e999", "x", "")
SOUND = {"--seed": ("0", str(2**31)), "--true-weight": NUMBERS} | dict.fromkeys(
    ("--weight-decay", "--label-noise", "--lambd"), ("0",)
)
NO_PATH = ("", "gs://bucket/x", "~nobody.here/x", 300 * "x", "file/x", "file", "site")
FAULTS = (errno.ENOSPC, errno.EIO, errno.EACCES, signal.SIGTERM, signal.SIGINT)
TREE = {"a": jnp.arange(3.0), "b": [jnp.ones((2, 2))]}
SECONDS = 60

cases: Counter[tuple[str, int]] = Counter()  # of a command, by exit code
armed: list = []  # a fault, the events before it, and the folder that it strikes
sometimes = st.sampled_from([None, None, *FAULTS])
event = st.integers(0, 40)
any_run = st.integers(0, 99)
any_command = st.sampled_from(sorted(COMMANDS))


class Run(NamedTuple):
    """What made a run folder, and whether it has been damaged since."""

    name: str
    args: tuple[str, ...]
    damaged: bool = False


class Late(BaseException):
    """The time is up."""


def strike(event, args):
    """Fail, or send a signal, at an event of a file; Python calls this at each."""
    if armed and event in ("open", "os.rename", "os.mkdir"):
        fault, left, folder = armed
        if str(args[0]).startswith(folder):
            armed[1] -= 1
            if not left:
                armed.clear()
                if isinstance(fault, signal.Signals):
                    os.kill(os.getpid(), fault)
                else:
                    raise OSError(fault, os.strerror(fault), args[0])


@contextmanager
def struck(fault, number, folder):
    armed[:] = [fault, number, str(folder)] if fault else []
    yield
    armed.clear()


def late(*_):
    raise Late


def command(name, *args):
    """Run a command in this process; return its code and what it says of an error."""
    sys.argv = [name, *args]
    err, code = io.StringIO(), None
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            importlib.import_module(f"experiments.{name}").main()
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.alarm(0)
    lines = [s for s in err.getvalue().splitlines() if not s.startswith("warning: ")]
    said = "\n".join(lines)
    if code:
        assert re.fullmatch("error: .*|(?s:.*For full helptext.*)", said)
    assert code in (0, 1, 2, 65, 130, 143)
    cases[name, code] += 1
    return code, said


def outcome(folder):
    """Return the numbers of a run that are the same each time."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not VARY.search(k)}
        return [strip(v) for v in value] if isinstance(value, list) else value

    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts.append((folder / "summary.json").read_text())
    return [strip(json.loads(text)) for text in texts]


@cache
def expected(name, args):
    with tempfile.TemporaryDirectory() as folder:
        assert command(name, *args, "--out", f"{folder}/run") == (0, "")
        return outcome(Path(folder, "run"))


class Attacks(RuleBasedStateMachine):
    """A folder with runs and with files of others, through several commands."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="ch4jax-attacks-"))
        os.chdir(self.root)
        self.runs: dict[Path, Run] = {}
        self.foreign: set[Path] = set()
        for file in ("file", "site/config.json", "site/index.html", "hf/manifest.json"):
            self.put(self.root / file)

    def teardown(self):
        os.chdir("/")
        shutil.rmtree(self.root)

    def put(self, path):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of somebody else")
            self.foreign.add(path)

    def pick(self, number):
        return sorted(self.runs)[number % len(self.runs)]

    def run(self, path, run, fault, number, *where):
        """Run a command whose folder is `path`, and check the second law."""
        right = expected(run.name, run.args)
        with struck(fault, number, path):
            code, said = command(run.name, *run.args, *where, str(path))
        if code == 0:
            assert outcome(path) == right
        if code > 128:
            assert code == 128 + fault
        return code, said

    def start(self, name, seed, save_every, fault, number):
        args = (*COMMANDS[name].split(), "--seed", str(seed))
        if name == "dropout":
            args += ("--epochs", "2", *save_every)
        path, run = self.root / f"run{len(self.runs)}", Run(name, args)
        code, said = self.run(path, run, fault, number, "--out")
        assert fault or code == 0, said
        if path.exists():
            self.runs[path] = run

    @initialize(fault=sometimes, number=event)
    def begin(self, fault, number):
        self.start("dropout", 0, ("--save-every", "1"), fault, number)

    @rule(
        name=any_command,
        seed=st.sampled_from([0, 2**32 - 1]),
        save_every=st.sampled_from([(), ("--save-every", "1")]),
        fault=sometimes,
        number=event,
    )
    def another(self, name, seed, save_every, fault, number):
        self.start(name, seed, save_every, fault, number)

    @precondition(lambda self: self.runs)
    @rule(
        which=any_run,
        change=st.sampled_from([(), (), (), ("--seed", "1"), ("--epochs", "3")]),
        fault=sometimes,
        number=event,
    )
    def resume(self, which, change, fault, number):
        path = self.pick(which)
        name, args, damaged = self.runs[path]
        if name != "dropout":
            return
        asked = read_object(path / "config.json").get("epochs", 0)
        finished = (path / "summary.json").exists()
        saved = [*path.glob("checkpoints/*/*/manifest.json")]
        begun = (path / "env.json").exists()
        begun = begun and (saved or not (path / "metrics.jsonl").stat().st_size)
        changed = Run(name, (*args, *change), damaged)
        wanted = 3 if "3" in changed.args else 2
        code, said = self.run(path, changed, fault, number, "--resume")
        if not (fault or damaged):
            if "--seed" in change or wanted < asked or (finished and wanted == asked):
                assert code == 2
            elif begun:
                assert code == 0, said
        if code != 2 and "--seed" not in change:
            self.runs[path] = changed

    @precondition(lambda self: self.runs)
    @rule(
        which=any_run,
        where=st.integers(0, 999),
        how=st.sampled_from(["flip", "cut", "remove", "fifo", "folder"]),
        at=st.integers(0, 10**6),
    )
    def damage(self, which, where, how, at):
        path = self.pick(which)
        files = [f for f in sorted(path.rglob("*")) if f.is_file()]
        if not files or (file := files[where % len(files)]) in self.foreign:
            return
        self.runs[path] = self.runs[path]._replace(damaged=True)
        content = bytearray(file.read_bytes()) or bytearray(1)
        file.unlink()
        if how in ("fifo", "folder"):
            os.mkfifo(file) if how == "fifo" else file.mkdir()
        elif how != "remove":
            content[at % len(content)] ^= 1 << at % 7
            file.write_bytes(content[: at % len(content)] if how == "cut" else content)

    @precondition(lambda self: self.runs)
    @rule(which=any_run)
    def copy(self, which):
        path = self.pick(which)
        if not any(file.is_fifo() for file in path.rglob("*")):
            copied = self.root / f"run{len(self.runs)}"
            shutil.copytree(path, copied)
            self.runs[copied] = self.runs[path]

    @precondition(lambda self: self.runs)
    @rule(
        which=any_run,
        where=st.sampled_from(["", "checkpoints", "checkpoints/20240101"]),
        file=st.sampled_from(["notes.txt", "manifest.json", ".x.part", ".1.old"]),
    )
    def put_into_a_run(self, which, where, file):
        self.put(self.pick(which) / where / file)

    @rule(
        name=any_command,
        flag=st.sampled_from(["--out", "--resume", "--data"]),
        path=st.sampled_from([*NO_PATH, "hf", "/dev/zero", "/proc/1/x", "run0"]),
    )
    def a_path_that_is_none(self, name, flag, path):
        if Path(path) != Path("run0") or self.root / path in self.runs:
            code, said = command(name, flag, path)
            assert code in (2, 65), said

    @rule(name=any_command, which=any_run, number=st.sampled_from(NUMBERS))
    def a_number_that_is_none(self, name, which, number):
        config_type = importlib.import_module(f"experiments.{name}").Config
        flags = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(config_type)
            if re.search(r"\b(int|float)\b|Int|Float", str(field.type))
        ]
        flag, own = flags[which % len(flags)], COMMANDS[name].split()
        code, said = command(name, *own, flag, number, "--out", "no")
        assert code in (1, 2) or number in SOUND.get(flag, ()), (flag, number, said)
        shutil.rmtree("no", ignore_errors=True)

    @rule(
        where=st.sampled_from(["site", "hf", "file", "tree", "exported"]),
        how=st.sampled_from(["export", "save", "checkpoint"]),
    )
    def save(self, where, how):
        cases[how, 0] += 1
        with suppress(Refused, NotADirectoryError):
            if how == "export":
                interop.export(self.root / where, TREE, {})
            elif how == "save":
                storage.save(where, TREE)
            else:
                checkpoints = storage.Checkpoints(where, keep=1)
                checkpoints.save(max(checkpoints.steps(), default=0) + 1, TREE)

    @precondition(lambda self: self.runs)
    @rule(where=st.sampled_from(["page", "site"]))
    def report(self, where):
        code, said = command("report", "--runs", str(self.root), "--out", where)
        assert code == (0 if where == "page" else 2), said

    @invariant()
    def what_is_foreign_has_not_changed(self):
        for path in self.foreign:
            assert path.read_text() == "of somebody else"


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_the_four_laws_hold_whatever_is_tried(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setattr("os._exit", sys.exit)
    # Those that arrive before a command has begun, or after it has ended.
    for number, handler in dict.fromkeys(FAULTS[3:], lambda *_: None).items():
        signal.signal(number, handler)
    signal.signal(signal.SIGALRM, late)
    sys.addaudithook(strike)
    given = settings(
        max_examples=int(os.environ.get("CH4JAX_ATTACKS", "50")),
        stateful_step_count=15,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Attacks, settings=given)
    finally:
        with capsys.disabled():
            print(f"{cases.total()} cases: {dict(cases)}")
