"""The command line: help, one line and the right code for each mistake, the cache."""

import dataclasses
import errno
import importlib
import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from support import command, one_line, read, rows

from ch4jax.data import fashion_mnist
from ch4jax.errors import DataError, NetworkError, Refused
from experiments import __main__, dropout
from experiments.common import cli, console, plots, setup
from experiments.common.errors import Failed, Interrupted, UsageError
from experiments.common.run_folder import RunFolder


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of a little experiment."""

    size: int = 3
    """How big."""


@pytest.fixture
def exit_code(monkeypatch):
    """Let `cli.exit_code` handle warnings as long as the test lasts."""
    monkeypatch.setattr("warnings.showwarning", None)
    return cli.exit_code


@pytest.fixture
def ends(exit_code, capsys):
    """Return a check of the exit code and the one line of an error."""

    def ends(work, code, line):
        assert exit_code(work) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(f"error: {line}\n", err)

    return ends


EXPERIMENTS = sorted(__main__.experiments())


def config_type(name):
    return importlib.import_module(f"experiments.{name}").Config


def flags(name):
    """Return the flags of a command, and their types as text."""
    return [
        (f"--{field.name.replace('_', '-')}", str(field.type))
        for field in dataclasses.fields(config_type(name))
        if "Positional" not in str(field.type)
    ]


def test_the_list_names_every_experiment_with_a_sentence():
    listed = command("-m", "experiments")
    assert listed.returncode == 0
    assert "dropout" in EXPERIMENTS
    for name, line in __main__.experiments().items():
        assert f" {name} " in listed.stdout
        assert line.endswith(".")


HELP = """
import contextlib, io, json, runpy, sys
shown = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(f"experiments.{name}", None, "__main__", True)
        except SystemExit as stop:
            shown[name] = stop.code, out.getvalue()
print(json.dumps(shown))
"""


def test_help_lists_every_flag_and_starts_no_backend():
    no_backend = {"JAX_PLATFORMS": "no_such_platform", "MPLBACKEND": "agg"}
    done = command("-c", HELP, *EXPERIMENTS, **no_backend)
    assert (done.returncode, done.stderr) == (0, "")
    for name, (code, text) in json.loads(done.stdout).items():
        assert code == 0
        assert all(flag in text for flag, _ in flags(name))


@pytest.mark.parametrize("args", [["--help"], ["--no-such-flag"]])
def test_help_ends_in_a_terminal_of_one_column(args, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    with pytest.raises(SystemExit):
        cli.parse(Config, args)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_number_that_a_flag_takes_is_checked(name):
    wrong = {"int": "-1", "float": "nan"}
    for flag, kind in flags(name):
        for number in re.findall(r"\b(?:int|float)\b", kind):
            if flag != "--true-weight":
                with pytest.raises(UsageError, match=flag):
                    cli.parse(config_type(name), [flag, wrong[number]])


@dataclass(frozen=True)
class Numbers(cli.Flags):
    count: cli.Count = 1
    counts: tuple[cli.Count, ...] = (1, 1)
    positive: cli.Positive = 1.0
    from_0: cli.From0 = 0.0
    share: cli.Probability = 0.0
    later: cli.OptionalPositive = None


OUT_OF_RANGE = {
    "seed": (-1, 2**32),
    "count": (0, 2**31),
    "counts": ((1, 0),),
    "positive": (0.0, math.inf, math.nan),
    "from_0": (-1.0, math.inf, math.nan),
    "share": (-0.1, 1.1, math.nan),
    "later": (-1.0,),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_out_of_range_is_one_line(name):
    flag = f"--{name.replace('_', '-')}"
    for number in OUT_OF_RANGE[name]:
        got = number[-1] if isinstance(number, tuple) else number
        with pytest.raises(UsageError, match=f"^{flag} must be .*, got {got}$"):
            Numbers(**{name: number})


OF_TWO = "dropout --num-processes 2 --coordinator"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("dropout --hidden 8 8 8", "one for each of 3 hidden layers, got 2"),
        ("dropout --batch-size 6001", "at most the 6,000 training images, got 6001$"),
        ("dropout --train-size 6001", "--train-size must be 1 to 6,000, .*, got 6001"),
        ("dropout --resume .", r"no sound config\.json in it"),
        ("dropout --resume . --out .", "--out must not be given with --resume"),
        ("dropout --devices 0", "--devices must be at least 1 .*, got 0"),
        ("dropout --num-processes 0", "--num-processes must be at least 1 .*, got 0"),
        ("dropout --coordinator a:1", "together, got no --num-processes, --process-id"),
        ("dropout --process-id 1", "together, got no --coordinator, --num-processes"),
        (f"{OF_TWO} a --process-id 0", "--coordinator must be HOST:PORT, got a$"),
        (f"{OF_TWO} a:99999 --process-id 0", "must be HOST:PORT, got a:99999"),
        (f"{OF_TWO} a:1 --process-id 2", "--process-id must be from 0 to 2 - 1, got 2"),
        (f"{OF_TWO} a:1 --process-id -1", "--process-id must be from 0 .*, got -1"),
        (f"{OF_TWO} a:1 --process-id 0 --distributed", "takes the place of --coord"),
        ("backprop --batch-size 6001", "at most the 6,000 training images, got 6001$"),
        ("weight_decay --batch-size 21", "at most the 20 training rows, got 21"),
        ("weight_decay --lambdas 4 --devices 3", "--lambdas must .* of the 3 --dev"),
        ("house_prices --folds 1", "--folds must be at least 2, got 1"),
        ("house_prices --folds 1461", "at most the 1,460 rows with prices, got 1461"),
        ("house_prices --batch-size 1461", "be at most the 1,460 rows"),
        ("house_prices --repeats 2", "--repeats is for .* best and search, got 2"),
        ("house_prices --seeds 3 --devices 2", "--seeds must .* of the 2 --dev"),
        ("house_prices --recipe best --learning-rate 1", "--learning-rate is for .* b"),
        ("house_prices --recipe search --weight-decay 1", "--weight-decay is for .* b"),
        ("house_prices --recipe best --batch-size 32", "--batch-size is for .* book"),
        ("compare atoms", "got atoms"),
        ("claims 0", "claims are 1 to 21, got 0"),
        ("claims 1 22", "claims are 1 to 21, got 22"),
        ("time_to_accuracy --seeds 1", "--seeds must be at least 2, got 1"),
        ("end_to_end --platform gpu", "--platform must be cpu, .* got gpu"),
        ("report --runs nowhere", "--runs must be folders, got nowhere"),
        ("report --runs . --quick", "--quick must not be given with --runs"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line_before_anything_is_written(
    words, line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CH4JAX_DATA", "of nobody")
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path)
    name, *args = words.split()
    command = importlib.import_module(f"experiments.{name}")
    with one_line(UsageError, line):
        command.run(cli.parse(command.Config, args))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [["--size", "two"], ["--colour", "red"], ["--seed"]])
def test_a_wrong_flag_is_named_and_exits_with_2(args, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(Config, args)
    assert stop.value.code == 2
    assert args[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "must name a local file or folder, got ''"),
        ("gs://bucket/run", "must name a local file or folder, got 'gs://bucket/run'"),
        ("~nobody.here/run", "path '~nobody.here/run' cannot be resolved"),
        (300 * "long", "File name too long"),
    ],
)
@pytest.mark.parametrize("flag", ["--out", "--resume", "--data"])
def test_what_is_no_path_here_is_refused_in_one_line(flag, path, line):
    with one_line(UsageError, line):
        cli.parse(dropout.Config, [flag, path])


def test_a_tilde_is_the_home_and_a_word_that_names_data_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    config = cli.parse(dropout.Config, ["--out", "~/run", "--data", "./mini"])
    assert (config.out, config.data) == (Path("/elsewhere/run"), "./mini")
    assert cli.parse(dropout.Config, ["--data", "mini"]).data == "mini"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_disable_jit", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_transfer_guard_device_to_host", "disallow"),
    ],
)
def test_settings_with_which_nothing_works_are_refused(name, value, settings, ends):
    jax.config.update(name, value)
    ends(lambda: cli._run(Config(), None), 2, f"{name.upper()} must be .*")


@pytest.mark.parametrize(
    ("asked", "variable", "precision"),
    [
        (None, None, "highest"),
        ("default", None, "default"),
        (None, "default", "default"),
        ("highest", "default", "highest"),
    ],
)
def test_products_are_float32_unless_a_flag_or_jax_s_variable_asks_otherwise(
    asked, variable, precision, settings
):
    jax.config.update("jax_default_matmul_precision", variable)
    setup.set_precision(asked)
    assert setup.numerics()["jax_default_matmul_precision"] == precision


def test_a_gpu_of_any_maker_is_found_and_the_cpu_beside_it(settings, monkeypatch):
    setup.set_platform("gpu")
    assert not jax.config.values["jax_platforms"]  # its own gpu fails without AMD's
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    setup.check_platform("gpu")
    setup.check_platform("cuda")
    with pytest.raises(UsageError, match=r"--platform tpu: .* \(JAX finds gpu\)"):
        setup.check_platform("tpu")


@pytest.mark.parametrize(
    ("flags", "variables", "line"),
    [
        (["--platform", "abacus"], {}, "--platform abacus: no such device here.*"),
        ([], {"JAX_DEFAULT_PRNG_IMPL": "maybe"}, ".*jax_default_prng_impl.*"),
        (["--help"], {"JAX_DEFAULT_PRNG_IMPL": ""}, ".*jax_default_prng_impl.*"),
    ],
)
def test_what_jax_does_not_know_is_one_line_with_code_2(flags, variables, line):
    refused = command("-m", "experiments.layers", *flags, **variables)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.fullmatch(f"error: {line}\n", refused.stderr)


def test_a_folder_that_cannot_be_written_is_refused_with_code_2(ends, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = Config(out=tmp_path / "file" / "run")
    ends(lambda: RunFolder.create("little", config), 2, "--out .*")


FULL = OSError(errno.ENOSPC, "No space left on device", "f")
NO_MEMORY = jax.errors.JaxRuntimeError("X: Out of memory: 9 bytes\nat")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no"), 2, "no"),
        (Failed("no"), 1, "no"),
        (DataError("no"), 65, "no"),
        (NetworkError("no"), 69, "no"),
        (Refused("x exists"), 1, "x exists"),
        (Interrupted("no", 2), 130, "no"),
        (FULL, 1, ".*No space left.*"),
        (OSError("f is in place, but then: no"), 1, "f is in place, but then: no"),
        (MemoryError(), 1, "out of memory"),
        (NO_MEMORY, 1, "X: Out of memory: 9 bytes"),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line(error, code, line, ends):
    ends(Mock(side_effect=error), code, line)


NOT_THERE = FileNotFoundError(2, "no")
JAX_BUG = jax.errors.JaxRuntimeError("INTERNAL: no")


@pytest.mark.parametrize("bug", [ZeroDivisionError(), NOT_THERE, JAX_BUG])
def test_what_may_be_a_bug_keeps_its_traceback(bug, exit_code):
    with pytest.raises(type(bug)):
        exit_code(Mock(side_effect=bug))


TALKS = """
from pathlib import Path
from experiments.common import cli, console
def work():
    console.say(100_000 * "é ")  # more than a pipe holds
    Path("result").touch()
    return 0
cli.sys.exit(cli.exit_code(work))
"""


@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        (">/dev/full", 1, "standard output: No space left on device"),
        (">&-", 1, "standard output: it is closed"),
        ("| head -c 1", 1, "standard output: Broken pipe"),
        (">/dev/null 2>&-", 0, None),
        ("2>/dev/full >/dev/null", 0, None),
        (">/dev/null", 0, None),
    ],
)
def test_a_result_is_written_whatever_becomes_of_the_streams(
    redirection, code, line, tmp_path
):
    (tmp_path / "script.py").write_text(TALKS)
    run = f"cd {tmp_path}; {sys.executable} script.py {redirection}"
    shell = ["bash", "-o", "pipefail", "-c", run]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(shell, stderr=subprocess.PIPE, env=ascii_only, text=True)
    assert done.returncode == code
    assert done.stderr == (f"error: {line}\n" if line else "")
    assert (tmp_path / "result").exists()


def test_without_a_home_or_an_encoding_a_command_works(tmp_path):
    """As in a container whose user has no entry in passwd."""
    homes = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "JAX_COMPILATION_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in homes}
    script = "import pwd; pwd.getpwuid = {}.__getitem__; from ch4jax import data"
    script += "; data.cache_folder(); from experiments import blocks"
    script += "; blocks.cli.main(blocks.Config, blocks.run)"
    done = subprocess.run(
        [sys.executable, "-c", script, "--out", str(tmp_path / "run")],
        env=env | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        cwd=tmp_path,
    )
    assert not (tmp_path / "~").exists()
    assert done.returncode == 0, done.stderr


@pytest.fixture
def own_cache(monkeypatch, tmp_path, settings):
    """Leave JAX without a cache folder, and let the user's be `tmp_path`."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "ch4jax"
    compilation_cache.reset_cache()


def test_compiled_programs_are_kept_the_little_ones_too(own_cache):
    setup.keep_programs()
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
def test_what_jax_was_told_of_its_cache_takes_precedence(name, value, own_cache):
    jax.config.update(name, value)
    before = dict(jax.config.values)
    setup.keep_programs()
    assert dict(jax.config.values) == before


@pytest.mark.parametrize(("told", "on"), [(None, False), ("true", True)])
def test_what_is_timed_is_compiled_afresh_unless_jax_is_told(
    told, on, own_cache, monkeypatch
):
    name = "JAX_ENABLE_COMPILATION_CACHE"
    monkeypatch.delenv(name, raising=False)
    if told:
        monkeypatch.setenv(name, told)
    jax.config.update("jax_enable_compilation_cache", True)
    setup.compile_afresh()
    assert jax.config.values["jax_enable_compilation_cache"] is on


def test_a_cache_that_cannot_be_written_changes_nothing(own_cache):
    own_cache.write_text("in the way")
    setup.keep_programs()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert jax.jit(lambda x: x + 41)(1) == 42  # a warning would be an error here


def test_a_matplotlibrc_does_not_change_a_figure(tmp_path):
    drawn = []
    for rc in ({}, {"axes.facecolor": "red", "text.usetex": True}):
        with plots.mpl.rc_context(rc), plots.figure(tmp_path / "f", size=(1, 1)):
            pass
        drawn.append((tmp_path / "f").read_bytes())
    assert drawn[0] == drawn[1]


def test_panels_are_drawn_stacked_too_each_with_the_labels_of_a_shared_axis(tmp_path):
    with plots.figure(tmp_path / "f.png", 1, 3, size=(8.5, 2), sharey=True) as axes:
        axes[0].set(ylabel="loss")
    height, width = plots.plt.imread(tmp_path / "f.png").shape[:2]
    stacked = plots.plt.imread(tmp_path / "f-narrow.png").shape
    assert stacked[1] < 0.6 * width
    assert stacked[0] > 2.5 * height
    assert [panel.get_ylabel() for panel in axes] == ["loss"] * 3
    assert all(panel.get_yticklabels()[0].get_visible() for panel in axes)


def test_a_run_folder_holds_flags_environment_numbers_and_what_was_shown(tmp_path):
    config = Config(out=tmp_path / "run", size=4)
    folder = RunFolder.create("little", config, {"data": "mini"})
    folder.metrics(epoch=1, loss=float("nan"))
    folder.table(["", "n"], [["a", "1"]], title="numbers")
    texts = {"caption": "what to see", "alt": "drawn"}
    with folder.figure("f.png", size=(2, 1), **texts) as axes:
        axes.plot([0, 1])
    folder.finish({"answer": 42}, headline="It is 42.")
    assert (folder.path / "f.png").exists()
    assert rows(folder.path) == [{"epoch": 1, "loss": None}]
    flags, env = read(folder.path, "config"), read(folder.path, "env")
    assert (flags["size"], flags["data"]) == (4, "mini")
    assert env["packages"]["jax"]
    assert env["command"].startswith("python -m experiments.little")
    summary = read(folder.path)
    assert 0 < summary.pop("seconds") < 600
    assert summary == {"experiment": "little", "answer": 42}
    table = {"title": "numbers", "columns": ["", "n"], "rows": [["a", "1"]]}
    assert read(folder.path, "record") == {
        "headline": "It is 42.",
        "tables": [table | {"num_texts": 1}],
        "figures": [{"file": "f.png"} | texts],
    }


def test_a_folder_that_holds_anything_is_refused_and_unchanged(tmp_path):
    (tmp_path / "config.json").write_text("of a web application")
    with pytest.raises(UsageError, match=r"new or empty folder, .* config.json; --res"):
        RunFolder.create("little", Config(out=tmp_path))
    (file,) = tmp_path.iterdir()
    assert file.read_text() == "of a web application"


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.create("little", Config()).path for _ in range(3)}
    assert len(folders) == 3


def test_progress_off_a_terminal_is_a_line_a_step(capsys):
    with console.progress("work", 2) as done:
        done("first")
        done("second")
    assert capsys.readouterr().out == "work 1/2: first\nwork 2/2: second\n"


def terminal(width, monkeypatch):
    """Print to a terminal as wide as this; return what it shows."""
    shown = io.StringIO()
    own = Console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(console, "console", own)
    return shown


@pytest.mark.parametrize(
    "label", ["flax, no dropout", "ReLU, He, rate 0.2, clipped by value"]
)
def test_at_80_columns_a_bar_keeps_label_count_time_and_two_numbers(label, monkeypatch):
    shown = terminal(80, monkeypatch)
    with console.progress(label, 10) as done:
        done("loss 1.91e+03, test acc. 0.865, test loss 0.4", 10)
    text = re.sub(r"\x1b\S*?[A-Za-z]", "", shown.getvalue())
    assert label in text
    last = text.strip().rpartition("\n")[2].rpartition("\r")[2]
    assert re.search("━+ 10/10 00:00 loss 1.91e\\+03, test acc. 0.865", last), last


@pytest.mark.parametrize("width", [1, 20, 300])
def test_a_bar_fits_a_terminal_of_any_width(width, monkeypatch):
    terminal(width, monkeypatch)
    with console.progress("flax, no dropout", 10) as done:
        done("loss 1.91e+03, test acc. 0.865, test loss 0.4", 10)


def test_a_terminal_breaks_lines_between_words_and_keeps_the_indent(monkeypatch):
    shown = terminal(20, monkeypatch)
    console.say("one two three four five\n  f.png: what the figure shows")
    assert shown.getvalue() == (
        "one two three four\nfive\n  f.png: what the\n    figure shows\n"
    )


def test_a_table_that_is_too_wide_breaks_heads_and_no_cell(monkeypatch):
    shown = terminal(40, monkeypatch)
    console.table(
        ["", "a very long head", "n"], [["scratch, lambda 0", "1", "0 of 2,048"]]
    )
    *_, row = shown.getvalue().rstrip().split("\n")
    assert re.fullmatch(r"scratch, lambda 0 +1 +0 of 2,048", row)
    assert all(len(line) <= 40 for line in shown.getvalue().split("\n"))
