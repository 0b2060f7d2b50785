"""The command line: help without jax, one line and the right code for each mistake."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import __main__
from experiments.common import cli, runtime
from experiments.common.console import Report
from experiments.common.errors import Failed, LostPeer, UsageError


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of a little experiment."""

    size: int = 3
    """How big."""


def command(*args, **environment):
    """Run `python -m` in a process of its own, without the network's help."""
    return subprocess.run(
        [sys.executable, "-m", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        check=False,
    )


def run_main(run, capsys, *args, monkeypatch):
    """Return exit code, output and complaints of `cli.main` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["little", *args])
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(Config, run)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


EXPERIMENTS = sorted(__main__.experiments())


def test_the_list_names_every_experiment_with_a_sentence():
    listed = command("experiments")
    assert listed.returncode == 0
    assert "dropout" in EXPERIMENTS
    for name, line in __main__.experiments().items():
        assert f"python -m experiments.{name}" in listed.stdout
        assert line.endswith(".")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_imports_no_jax_and_shows_every_flag(name):
    shown = command("experiments." + name, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0
    imported = {line.rpartition("| ")[2].strip() for line in shown.stderr.splitlines()}
    assert "tyro" in imported
    assert not {"jax", "flax", "numpy", "matplotlib", "torch", "pandas"} & imported
    for flag in ("--seed", "--out", "--platform"):
        assert flag in shown.stdout


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--size", "two"], "--size"),
        (["--colour", "red"], "--colour"),
        (["--seed"], "--seed"),
        (["--seed", "-1"], "--seed must be in 0 to 2**32 - 1, got -1"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(args, line):
    with pytest.raises(UsageError) as error:
        cli.parse(Config, args)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)


def test_an_unknown_platform_is_refused_with_code_2():
    refused = command("experiments.dropout", "--platform", "abacus", "--data", "mini")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: --platform abacus: no such device here")
    assert refused.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_refused_with_code_2(
    capsys, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("in the way")

    def run(config, report):
        report.begin(config)

    args = ("--out", str(tmp_path / "file" / "run"))
    code, _, err = run_main(run, capsys, *args, monkeypatch=monkeypatch)
    assert code == 2
    assert err.startswith("error: --out ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (Failed("no"), 1),
        ("DataError", 65),
        ("NetworkError", 69),
        (LostPeer("no"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line(
    error, code, capsys, monkeypatch
):
    from ch4jax import data

    if isinstance(error, str):
        error = getattr(data, error)("no")

    def run(config, report):
        raise error

    actual, out, err = run_main(run, capsys, monkeypatch=monkeypatch)
    assert actual == code
    assert out == ""
    assert err in ("error: no\n", "error: interrupted\n")


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """Leave JAX without a cache folder, and let the user's be `tmp_path`."""
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "ch4jax"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compiled_programs_are_kept_the_little_ones_too(own_cache):
    runtime.keep_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(own_cache / "xla")
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_compilation_cache_dir", ""),
        ("jax_compilation_cache_dir", "of the user's choice"),
        ("jax_enable_compilation_cache", False),
    ],
)
def test_what_jax_was_told_of_its_cache_is_heeded(name, value, own_cache):
    jax.config.update(name, value)
    before = dict(jax.config.values)
    runtime.keep_programs()
    assert dict(jax.config.values) == before


@pytest.mark.parametrize(("told", "on"), [(None, False), ("true", True)])
def test_what_is_timed_is_compiled_anew_unless_jax_is_told(
    told, on, own_cache, monkeypatch
):
    name = "JAX_ENABLE_COMPILATION_CACHE"
    monkeypatch.delenv(name, raising=False)
    if told:
        monkeypatch.setenv(name, told)
    jax.config.update("jax_enable_compilation_cache", True)
    runtime.compile_anew()
    assert jax.config.values["jax_enable_compilation_cache"] is on


def test_a_cache_that_cannot_be_written_is_no_matter(own_cache):
    own_cache.write_text("in the way")
    runtime.keep_programs()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert jax.jit(lambda x: x + 41)(1) == 42  # a warning would be an error here


def test_a_bug_keeps_its_traceback(capsys, monkeypatch):
    def run(config, report):
        raise RuntimeError("a bug")

    monkeypatch.setattr(sys, "argv", ["little"])
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(Config, run)


def test_a_run_folder_holds_config_environment_metrics_and_summary(tmp_path):
    report = Report("little")
    report.begin(Config(out=tmp_path / "run", size=4))
    report.metrics(epoch=1, loss=float("nan"))
    report.finish({"answer": 42})
    files = {path.name: path.read_text() for path in (tmp_path / "run").iterdir()}
    assert set(files) == {"config.json", "env.json", "metrics.jsonl", "summary.json"}
    assert json.loads(files["config.json"])["size"] == 4
    assert json.loads(files["env.json"])["packages"]["jax"]
    assert json.loads(files["metrics.jsonl"]) == {"epoch": 1, "loss": None}
    assert json.loads(files["summary.json"]) == {"experiment": "little", "answer": 42}


def test_a_second_run_in_a_folder_leaves_nothing_of_the_first(tmp_path):
    for _ in range(2):
        report = Report("little")
        report.begin(Config(out=tmp_path))
        assert not (tmp_path / "summary.json").exists()
        report.metrics(epoch=1)
        report.finish({})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_progress_off_a_terminal_is_a_line_a_step(capsys):
    with Report("little").progress("work", 2) as done:
        done("first")
        done("second")
    assert capsys.readouterr().out == "work 1/2: first\nwork 2/2: second\n"
