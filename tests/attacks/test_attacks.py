"""Commands, flags, folders, damage and signals, drawn by a seed; four laws hold.

1. Nothing that is not ours changes.
2. Exit code 0 means the right result: that of the same flags in a folder of its own.
3. An error has no traceback: it is one line of ours or the box of tyro, and its code.
4. The command ends in time.

    pytest -m long tests/attacks --hypothesis-seed=1
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
import warnings
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
    precondition,
    rule,
    run_state_machine_as_test,
)

from ch4jax import interop, storage
from ch4jax.errors import Refused

COMMANDS = {
    name: flags.split()
    for name, flags in {
        "dropout": "--data mini --no-lesson --no-figures --impl flax --hidden 4 4 "
        "--std 0.1 --batch-size 3000",
        "blocks": "",
        "house_prices": "--folds 2 --epochs 1 --seeds 1",
        "layers": "",
        "parameters": "",
        "weight_decay": "--epochs 2 --lambdas 2 --seeds 1 --inputs 3",
        "backprop": "--hidden 4 --batch-size 8",
        "storage": "--flips 2 --kills 1",
    }.items()
}
# Two machines would differ in these, or two moments.
VARY = re.compile("second|memory|kills|flips")
SECONDS = 60
NUMBERS = ("-1", "0", str(2**31), str(2**64), "nan", "inf", "-inf", "1e999", "x", "")
MAY_BE = {
    "--seed": ("0", str(2**31)),
    "--true-weight": (*NUMBERS[:4],),
    **dict.fromkeys(("--weight-decay", "--label-noise", "--lambd"), ("0",)),
}
NO_PATH = ("", "gs://bucket/x", "~nobody.here/x", 300 * "x", "file/x", "file")
FAULTS = (errno.ENOSPC, errno.EIO, errno.EACCES, signal.SIGTERM, signal.SIGINT)
TREE = {"a": jnp.arange(3.0), "b": [jnp.ones((2, 2))]}
ended: Counter[tuple[str, int]] = Counter()  # how many cases of a command, by exit code


class Late(BaseException):
    """The time is up."""


class Done(NamedTuple):
    code: int
    err: str


class Run(NamedTuple):
    """A run folder: what made it, and whether somebody has damaged it since."""

    name: str
    args: tuple[str, ...]
    damaged: bool = False


class Fault:
    """Fails, or sends a signal, at the nth event of a file below a folder."""

    def __init__(self):
        self.armed = None
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if self.armed is None or event not in ("open", "os.rename", "os.mkdir"):
            return
        kind, left, root = self.armed
        if not str(args[0]).startswith(str(root)):
            return
        self.armed = (kind, left - 1, root) if left else None
        if left:
            return
        if isinstance(kind, signal.Signals):
            os.kill(os.getpid(), kind)
        else:
            raise OSError(kind, os.strerror(kind), args[0])

    @contextmanager
    def at(self, kind, number, root):
        self.armed = kind and (kind, number, root)
        yield
        self.armed = None


FAULT = Fault()


def late(*_):
    raise Late


def command(name, *args):
    """Run a command in this process."""
    module = importlib.import_module(f"experiments.{name}")
    handlers = {number: signal.signal(number, lambda *_: None) for number in FAULTS[3:]}
    handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, late)
    err, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.setattr("sys.argv", [name, *args])
        patch.setattr("os._exit", sys.exit)
        signal.alarm(SECONDS)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(err):
                module.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.alarm(0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    lines = [s for s in err.getvalue().splitlines() if not s.startswith("warning: ")]
    if code and "For full helptext" not in err.getvalue():
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
    assert code in (0, 1, 2, 65, 130, 143)
    ended[name, code] += 1
    return Done(code, err.getvalue())


def outcome(folder):
    """Return the numbers of a run that do not differ from one run to the next."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not VARY.search(k)}
        return [strip(v) for v in value] if isinstance(value, list) else value

    metrics = (folder / "metrics.jsonl").read_text().splitlines()
    texts = [(folder / "summary.json").read_text(), *metrics]
    return [strip(json.loads(text)) for text in texts]


@cache
def expected(name, args):
    with tempfile.TemporaryDirectory() as folder:
        assert command(name, *args, "--out", f"{folder}/run").code == 0
        return outcome(Path(folder, "run"))


def content(path):
    return path.read_bytes() if path.is_file() else path.is_dir()


class Attacks(RuleBasedStateMachine):
    """A folder with runs and with files of others, through several commands."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="ch4jax-attacks-"))
        os.chdir(self.root)
        self.runs, self.foreign = {}, {}
        for file in ("file", "site/config.json", "site/index.html", "hf/manifest.json"):
            self.put(file)

    @initialize(fault=st.sampled_from([None, *FAULTS]), number=st.integers(0, 40))
    def begin(self, fault, number):
        self.start("dropout", 0, ("--save-every", "1"), fault, number)

    def teardown(self):
        os.chdir("/")
        shutil.rmtree(self.root)

    def put(self, file):
        path = self.root / file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of somebody else")
            self.foreign[path] = content(path)

    def check(self):
        """Check the first law; `command` checks the third and the fourth."""
        for path, before in self.foreign.items():
            assert content(path) == before, f"{path} has changed"

    def pick(self, number):
        return sorted(self.runs)[number % len(self.runs)] if self.runs else None

    def ended(self, done, path, run, fault):
        """Check the second law for a run in `path`."""
        if done.code == 0:
            assert outcome(path) == expected(run.name, run.args)
        if done.code in (130, 143):
            assert done.code == 128 + fault
        self.check()

    @rule(
        name=st.sampled_from([*COMMANDS, *["dropout"] * 6, *["blocks"] * 3]),
        seed=st.sampled_from([0, 2**32 - 1]),
        extra=st.sampled_from([(), ("--save-every", "1")]),
        fault=st.sampled_from([None, *FAULTS]),
        number=st.integers(0, 40),
    )
    def another(self, name, seed, extra, fault, number):
        self.start(name, seed, extra, fault, number)

    def start(self, name, seed, extra, fault, number):
        args = (*COMMANDS[name], "--seed", str(seed))
        if name == "dropout":
            args += ("--epochs", "2", *extra)
        path, run = self.root / f"run{len(self.runs)}", Run(name, args)
        expected(name, args)
        with FAULT.at(fault, number, path):
            done = command(name, *args, "--out", str(path))
        assert fault or done.code == 0, done.err
        if path.exists():
            self.runs[path] = run
        self.ended(done, path, run, fault)

    @rule(
        which=st.integers(0, 99),
        change=st.sampled_from([(), (), (), ("--seed", "1"), ("--epochs", "3")]),
        fault=st.sampled_from([None, None, *FAULTS]),
        number=st.integers(0, 40),
    )
    def resume(self, which, change, fault, number):
        path = self.pick(which)
        if path is None or self.runs[path].name != "dropout":
            return
        run = self.runs[path]
        args = (*run.args, *change)
        expected(run.name, args)
        finished = (path / "summary.json").exists()
        saved = [*path.glob("checkpoints/*/*/manifest.json")]
        begun = (path / "env.json").exists()
        with FAULT.at(fault, number, path):
            done = command(run.name, *args, "--resume", str(path))
        if not (fault or run.damaged):
            if change == ("--seed", "1") or (finished and not change):
                assert done.code == 2
            elif begun and (saved or not (path / "metrics.jsonl").stat().st_size):
                assert done.code == 0, done.err
        if change and (done.code in (0, 130, 143) or fault):
            self.runs[path] = run._replace(args=args)
        self.ended(done, path, run._replace(args=args), fault)

    @rule(
        which=st.integers(0, 99),
        where=st.integers(0, 999),
        how=st.sampled_from(["flip", "cut", "empty", "remove", "fifo", "folder"]),
        at=st.integers(0, 10**6),
    )
    def damage(self, which, where, how, at):
        path = self.pick(which)
        files = path and [f for f in sorted(path.rglob("*")) if f.is_file()]
        if not files or (file := files[where % len(files)]) in self.foreign:
            return
        before = bytearray(file.read_bytes())
        self.runs[path] = self.runs[path]._replace(damaged=True)
        if how == "flip" and before:
            before[at % len(before)] ^= 1 << at % 7
            file.write_bytes(before)
        elif how == "cut":
            file.write_bytes(before[: at % (len(before) + 1)])
        elif how == "empty":
            file.write_bytes(b"")
        else:
            file.unlink()
            with suppress(KeyError):
                {"fifo": os.mkfifo, "folder": os.mkdir}[how](file)

    @rule(which=st.integers(0, 99))
    def copy(self, which):
        path = self.pick(which)
        if path and not any(f.is_fifo() for f in path.rglob("*")):
            copied = path.with_name(f"copy{len(self.runs)}")
            shutil.copytree(path, copied)
            self.runs[copied] = self.runs[path]

    @rule(
        which=st.integers(0, 99),
        where=st.sampled_from(["", "checkpoints", "checkpoints/20240101"]),
        file=st.sampled_from(["notes.txt", "manifest.json", ".x.part", ".1.old"]),
    )
    def put_into_a_run(self, which, where, file):
        if path := self.pick(which):
            self.put(path / where / file)

    @rule(
        name=st.sampled_from(sorted(COMMANDS)),
        flag=st.sampled_from(["--out", "--resume", "--data"]),
        path=st.sampled_from([*NO_PATH, "site", "hf", "/dev/zero", "/proc/1/x", "run"]),
    )
    def a_path_that_is_none(self, name, flag, path):
        if path == "run" and not (path := str(self.pick(0) or "")):
            return
        done = command(name, flag, path)
        assert done.code in (2, 65), done.err
        self.check()

    @rule(
        name=st.sampled_from(sorted(COMMANDS)),
        which=st.integers(0, 99),
        number=st.sampled_from(NUMBERS),
    )
    def a_number_that_is_none(self, name, which, number):
        config_type = importlib.import_module(f"experiments.{name}").Config
        fields = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(config_type)
            if re.search(r"\b(int|float)\b|Int|Float", str(field.type))
        ]
        flag = fields[which % len(fields)]
        done = command(name, *COMMANDS[name], flag, number, "--out", "no")
        may_be = MAY_BE.get(flag, ())
        assert done.code in (1, 2) or number in may_be, (flag, number, done.err)
        shutil.rmtree("no", ignore_errors=True)
        self.check()

    @rule(
        where=st.sampled_from(["site", "hf", "file", "tree", "exported"]),
        which=st.integers(0, 2),
    )
    def save(self, where, which):
        ended["save", 0] += 1
        path = self.root / where
        with suppress(Refused, NotADirectoryError):
            if which == 0:
                interop.export(path, TREE, {})
            elif which == 1:
                storage.save(path, TREE)
            else:
                checkpoints = storage.Checkpoints(path, keep=1)
                checkpoints.save(max(checkpoints.steps(), default=0) + 1, TREE)
        self.check()

    @precondition(lambda self: self.runs)
    @rule(where=st.sampled_from(["page", "site"]))
    def report(self, where):
        done = command("report", "--runs", str(self.root), "--out", where)
        assert done.code == (0 if where == "page" else 2), done.err
        self.check()


@pytest.mark.long
def test_the_four_laws_hold_whatever_is_tried(capsys):
    cases = int(os.environ.get("CH4JAX_ATTACKS", "200"))
    given = settings(
        max_examples=cases,
        stateful_step_count=12,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Attacks, settings=given)
    finally:
        with capsys.disabled():
            print(f" {ended.total()} cases: {dict(ended)}")
