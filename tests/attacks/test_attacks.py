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

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support import read, rows

from ch4jax import interop, storage
from ch4jax.data.files import read_object
from ch4jax.errors import Refused
from experiments.common import cli

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
SOUND = {
    "--seed": ("0", str(2**31)),
    "--true-weight": NUMBERS,
    "--lambd": ("0", str(2**31), str(2**64)),
    "--weight-decay": ("0",),
    "--label-noise": ("0",),
}
STEPS = {"resume": 4, "run_a_command": 2, "name_no_path": 2, "name_no_number": 2}
STEPS |= dict.fromkeys(["damage", "copy", "save", "report", "put_into_a_run"], 1)
NO_PATH = (
    "hf",
    "/dev/zero",
    "/proc/1/x",
    "",
    "gs://bucket/x",
    "~nobody.here/x",
    300 * "x",
    "file/x",
    "file",
    "site",
)
FAULTS = (errno.ENOSPC, errno.EIO, errno.EACCES, signal.SIGTERM, signal.SIGINT)
TREE = {"a": jnp.arange(3.0), "b": [jnp.ones((2, 2))]}
SECONDS = 60

cases: Counter[tuple[str, int]] = Counter()  # of a command, by exit code
armed: list = []  # a fault, the events before it, and the folder that it strikes


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
            module = importlib.import_module(f"experiments.{name}")
            if name == "report":  # it starts no device
                sys.exit(cli.exit_code(lambda: module.run(cli.parse(module.Config))))
            cli.main(module.Config, module.run)
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

    return strip([*rows(folder), read(folder)])


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
        jax.clear_caches()  # thousands of programs would use up the memory maps

    def put(self, path):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of somebody else")
            self.foreign.add(path)

    def run(self, draw, path, run, where):
        """Run a command whose folder is `path`, and check the second law.

        Returns:
          Its exit code and what it says of an error; no code if there was a fault.
        """
        right = expected(run.name, run.args)
        fault = draw.choice([None] * 5 + list(FAULTS))
        anywhere = isinstance(fault, signal.Signals) and draw.random() < 0.5
        number = draw.randrange(400 if anywhere else 40)
        with struck(fault, number, "" if anywhere else path):
            code, said = command(run.name, *run.args, where, str(path))
        if code == 0:
            assert outcome(path) == right
        if code > 128:
            assert code == 128 + fault
        return (None if fault else code), said

    @initialize(draw=st.randoms(use_true_random=True))
    def start(self, draw):
        self.run_a_command(draw, "dropout")

    @rule(draw=st.randoms(use_true_random=True))
    def step(self, draw):
        steps = STEPS if self.runs else {"run_a_command": 1}
        (name,) = draw.choices([*steps], steps.values())
        note(name)
        getattr(self, name)(draw)

    def run_a_command(self, draw, name=None):
        name = name or draw.choice(sorted(COMMANDS))
        args = (*COMMANDS[name].split(), "--seed", draw.choice(["0", str(2**32 - 1)]))
        if name == "dropout":
            args += ("--epochs", "2", *draw.choice([(), ("--save-every", "1")]))
        path, run = self.root / f"run{len(self.runs)}", Run(name, args)
        code, said = self.run(draw, path, run, "--out")
        assert not code, said
        if path.exists():
            self.runs[path] = run

    def resume(self, draw):
        trained = [p for p, run in sorted(self.runs.items()) if run.name == "dropout"]
        if not trained:
            return
        name, args, damaged = self.runs[path := draw.choice(trained)]
        change = draw.choice([(), (), ("--seed", "1"), ("--epochs", "3")])
        asked = read_object(path / "config.json").get("epochs", 0)
        finished = (path / "summary.json").exists()
        metrics = path / "metrics.jsonl"
        begun = (path / "env.json").exists() and (
            any(path.glob("checkpoints/*/*/manifest.json"))
            or not (metrics.is_file() and metrics.stat().st_size)
        )
        run = Run(name, (*args, *change), damaged)
        wanted = 3 if "3" in run.args else 2
        code, said = self.run(draw, path, run, "--resume")
        if code is not None and not damaged:
            if "--seed" in change or wanted < asked or (finished and wanted == asked):
                assert code == 2
            elif begun:
                assert code == 0, said
        if code != 2 and "--seed" not in change:
            self.runs[path] = run

    def damage(self, draw):
        path = draw.choice(sorted(self.runs))
        files = {f for f in path.rglob("*") if f.is_file()} - self.foreign
        if not files:
            return
        file = draw.choice(sorted(files))
        self.runs[path] = self.runs[path]._replace(damaged=True)
        content = bytearray(file.read_bytes()) or bytearray(1)
        file.unlink()
        how, at = draw.randrange(5), draw.randrange(len(content))
        content[at] ^= 1 << draw.randrange(7)
        if how < 2:
            file.write_bytes(content[: len(content) if how else at])
        elif how < 4:
            file.mkdir() if how == 2 else os.mkfifo(file)

    def copy(self, draw):
        path = draw.choice(sorted(self.runs))
        if not any(file.is_fifo() for file in path.rglob("*")):
            copied = self.root / f"run{len(self.runs)}"
            shutil.copytree(path, copied)
            self.runs[copied] = self.runs[path]

    def put_into_a_run(self, draw):
        where = draw.choice(["", "checkpoints", "checkpoints/20240101"])
        file = draw.choice(["notes.txt", "manifest.json", ".x.part", ".1.old"])
        self.put(draw.choice(sorted(self.runs)) / where / file)

    def name_no_path(self, draw):
        path = draw.choice([*NO_PATH, *map(str, self.runs)])
        flag = draw.choice(["--out", "--resume", "--data"])
        code, said = command(draw.choice(sorted(COMMANDS)), flag, path)
        assert code in (2, 65), said

    def name_no_number(self, draw):
        name, number = draw.choice(sorted(COMMANDS)), draw.choice(NUMBERS)
        config_type = importlib.import_module(f"experiments.{name}").Config
        flags = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(config_type)
            if re.search(r"\b(int|float)\b|Int|Float", str(field.type))
        ]
        flag = draw.choice(flags)
        code, said = command(name, *COMMANDS[name].split(), flag, number, "--out", "no")
        assert code in (1, 2) or number in SOUND.get(flag, ()), (flag, number, said)
        shutil.rmtree("no", ignore_errors=True)

    def save(self, draw):
        cases["save", 0] += 1
        where = draw.choice(["site", "hf", "file", "tree", "exported"])
        with suppress(Refused, NotADirectoryError):
            if (how := draw.randrange(3)) == 0:
                interop.export(self.root / where, TREE, {})
            elif how == 1:
                storage.save(where, TREE)
            else:
                checkpoints = storage.Checkpoints(where, keep=1)
                checkpoints.save(max(checkpoints.steps(), default=0) + 1, TREE)

    def report(self, draw):
        where = draw.choice(["page", "site"])
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
