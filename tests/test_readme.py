"""What the front door promises: commands that parse, numbers that were measured."""

import importlib
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import cli

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh-CN.md"]
DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m (experiments\.\w+[^`|\n#&]*)")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name):
    """Return module and arguments of every command that stands in a README."""
    found = COMMAND.findall(text_of(name))
    whole = {" ".join(shlex.split(command)) for command in found}
    return sorted(whole - {"experiments.NAME"})


def rows(name):
    """Return the rows of the table of measurements: what, measured, command."""
    lines = text_of(name).splitlines()
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if "|" in line]
    return [row for row in cells if len(row) == 3 and "`" in row[2]]


def numbers_in(value):
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
        if value and all(isinstance(item, float) for item in value):
            yield sum(value) / len(value)  # over the seeds


def measured():
    """Return every number of every committed result."""
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    return [n for file in files for n in numbers_in(json.loads(file.read_text()))]


def is_rounded(written, values):
    """Tell whether some value, rounded as what is written, gives it."""
    plain = written.replace(",", "")
    if "e" in plain:
        digits = len(plain.partition("e")[0].partition(".")[2])
        return any(f"{v:.{digits}e}" == f"{float(plain):.{digits}e}" for v in values)
    decimals = len(plain.partition(".")[2])
    return any(abs(round(v, decimals) - float(plain)) < 1e-9 for v in values)


@pytest.mark.parametrize("name", READMES)
def test_every_command_has_a_module_and_flags_that_it_knows(name):
    found = commands(name)
    assert len(found) >= 10
    for command in found:
        module, *arguments = command.split()
        room = importlib.import_module(module)
        own = list(itertools.takewhile(lambda word: word != "--", arguments))
        cli.parse(room.Config, own)


@pytest.mark.long
@pytest.mark.parametrize("command", commands("README.md"))
def test_every_command_of_the_front_page_runs(command, tmp_path):
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    no_such_device = "--platform gpu: no such device here" in done.stderr
    assert done.returncode == (2 if no_such_device else 0), done.stderr
    assert no_such_device or list(tmp_path.rglob("summary.json"))


def test_every_number_in_the_table_stands_in_a_result_file():
    values = measured()
    table = rows("README.md")
    assert len(table) >= 10
    wrong = {
        number: row[0]
        for row in table
        for number in NUMBER.findall(row[1])
        if not is_rounded(number, values)
    }
    assert wrong == {}


def test_a_number_that_nobody_measured_is_found():
    assert is_rounded("1.18", [1.1812])
    assert is_rounded("60,000", [60000.0])
    assert is_rounded("1.0e-12", [1.04e-12])
    assert not is_rounded("1.18", [1.2, 118.0])


def test_both_readmes_have_the_same_commands_numbers_and_links():
    english, chinese = (text_of(name) for name in READMES)
    assert commands("README.md") == commands("README.zh-CN.md")
    assert [row[2] for row in rows("README.md")] == [
        row[2] for row in rows("README.zh-CN.md")
    ]
    for a, b in zip(rows("README.md"), rows("README.zh-CN.md"), strict=True):
        assert NUMBER.findall(a[1]) == NUMBER.findall(b[1])
    links = re.compile(r"\]\(([^)]+)\)")
    other = {"README.md", "README.zh-CN.md"}
    assert set(links.findall(english)) - other == set(links.findall(chinese)) - other


@pytest.mark.parametrize("name", [*READMES, "CONTRIBUTING.md", *DOCS])
def test_every_link_into_the_repository_leads_somewhere(name):
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#]+)", text_of(name)):
        if not target.startswith("http"):
            assert (folder / target).exists(), target


def test_every_guarantee_of_storage_names_a_test_that_there_is():
    table = [line for line in text_of("docs/storage.md").splitlines() if "|" in line]
    named = re.findall(r"\btest_\w+(?!\w*\.py)\b", "\n".join(table))
    files = (ROOT / "tests").rglob("test_*.py")
    known = set(re.findall(r"def (test_\w+)", "".join(f.read_text() for f in files)))
    assert len(named) >= 10
    assert set(named) <= known


def test_every_room_of_the_library_stands_in_the_map():
    text = text_of("README.md")
    for path in (ROOT / "ch4jax").glob("*.py"):
        if path.name != "__init__.py":
            assert path.name in text, path.name


@pytest.mark.parametrize("name", READMES)
def test_the_python_on_the_front_page_runs(name):
    blocks = re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
