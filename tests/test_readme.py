"""What the README promises: commands that parse, numbers that were measured.

The comment `<!-- backprop.json: quantities / w1 / difference -->` binds the number
before it to an entry of `docs/results/backprop.json`; `a; b` binds the last two. A part
of a path is a key, an index, or a value that selects rows; a list is read as its mean.
"""

import ast
import importlib
import itertools
import json
import pkgutil
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import SECTIONS
from experiments.common import cli

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh-CN.md"]
DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
CHAPTERS = [f"book/{path.name}" for path in sorted((ROOT / "book").glob("*.md"))]
COMMAND = re.compile(r"python -m (experiments\.\w+[^`|\n#&]*)")
NUMBER = re.compile(r"(?:(?<![^\s|(])-)?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?<!,)")
COMMENT = re.compile(r"<!-- ([\w-]+\.json): (.*?) -->", re.DOTALL)


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name):
    """Return module and arguments of every command in a README."""
    found = COMMAND.findall(text_of(name))
    return sorted({" ".join(shlex.split(c)) for c in found} - {"experiments.NAME"})


def rows(name):
    """Return the rows of a table of measurements: what, number, unit, and command."""
    cells = [re.split(r"\s*\|\s*", x.strip("| ")) for x in text_of(name).splitlines()]
    return [row for row in cells if 3 <= len(row) <= 4 and NUMBER.match(row[1])]


def bindings(text):
    """Return each bound number as it is written, with its result file and path."""
    found = []
    for comment in COMMENT.finditer(text):
        paths = [" ".join(path.split()) for path in comment[2].split(";")]
        before = NUMBER.findall(COMMENT.sub("", text[: comment.start()]))
        for written, path in zip(before[-len(paths) :], paths, strict=True):
            found.append((written, comment[1], path))
    return found


def value_at(node, path):
    """Return the number at `path` of a result."""
    for part in path.split(" / "):
        if isinstance(node, dict):
            node = node[part]
        elif part.isdigit():
            node = node[int(part)]
        else:
            found = [row for row in node if part in row.values()]
            node = found[0] if len(found) == 1 else found
    return statistics.mean(node) if isinstance(node, list) else node


@pytest.mark.parametrize("name", READMES)
def test_every_command_has_a_module_and_flags_that_it_knows(name):
    assert len(commands(name)) >= 10
    for command in commands(name):
        module, *arguments = command.split()
        own = itertools.takewhile(lambda word: word != "--", arguments)
        cli.parse(importlib.import_module(module).Config, list(own))


@pytest.mark.long
@pytest.mark.parametrize("command", commands("README.md"))
def test_every_command_of_the_front_page_runs(command, tmp_path):
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    no_such_device = "--platform gpu: no such device here" in done.stderr
    assert done.returncode == (2 if no_such_device else 0), done.stderr
    assert no_such_device or list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("name", [*READMES, *DOCS, *CHAPTERS])
def test_a_bound_number_is_its_result_rounded_and_one_unit_more_is_another(name):
    for written, file, path in bindings(text_of(name)):
        mantissa, _, exponent = written.partition("e")
        decimals = len(mantissa.partition(".")[2])
        comma, kind = "," if "," in written else "", "e" if exponent else "f"
        unit = 10.0 ** (int(exponent or 0) - decimals)
        value = value_at(json.loads(text_of(f"docs/results/{file}")), path)
        for off in (0, unit):
            shown = f"{value + off:{comma}.{decimals}{kind}}"
            assert (shown == written) == (off == 0), path


@pytest.mark.parametrize("name", ["README.md", "docs/measured.md"])
def test_the_comparisons_with_pytorch_are_as_many_as_a_page_says(name):
    result = json.loads(text_of("docs/results/compare.json"))
    systems, ways = len(result["courses"]), len(result["verdicts"])
    text = " ".join(text_of(name).split())
    assert re.search(rf"{systems} systems .* their PyTorch twins in {ways} ways", text)
    assert all(verdict["passed"] for verdict in result["verdicts"])


@pytest.mark.parametrize(
    ("name", "most"), [(READMES[0], 5), (READMES[1], 5), ("docs/measured.md", 99)]
)
def test_every_cell_of_a_table_of_results_is_one_number_that_is_bound(name, most):
    assert 5 <= len(rows(name)) <= most
    for what, measured, *_ in rows(name):
        (written,) = NUMBER.findall(COMMENT.sub("", measured))
        assert [bound[0] for bound in bindings(measured)] == [written], what


def test_the_chapters_are_those_of_the_list_of_commands():
    row = r"^\| ([\d.]+) \| ([\d., ]+) \| .*experiments\.(\w+)"
    table = re.findall(row, text_of("README.md"), re.MULTILINE)
    assert {name: (first, d2l) for first, d2l, name in table} == SECTIONS
    assert [name for *_, name in table] == list(SECTIONS)


def test_both_readmes_have_the_same_commands_numbers_and_links():
    english, chinese = (text_of(name) for name in READMES)
    assert commands("README.md") == commands("README.zh-CN.md")
    assert bindings(english) == bindings(chinese)
    links = (set(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, chinese))
    assert set.symmetric_difference(*links) == set(READMES)


@pytest.mark.parametrize(
    "name", [*READMES, "CHANGELOG.md", "CONTRIBUTING.md", *DOCS, *CHAPTERS]
)
def test_every_link_path_and_module_that_a_page_names_exists(name):
    text = text_of(name)
    for target in re.findall(r"\]\(([^)#]+)", text):
        whole = (ROOT / name).parent / target
        assert target.startswith("http") or whole.exists(), target
    if name not in ("CHANGELOG.md", "docs/log.md"):  # which name what there was
        for path in re.findall(r"`((?:ch4jax|experiments|tests)/[\w./]*)`", text):
            assert (ROOT / path).exists(), path
        for dotted in re.findall(r"`(ch4jax\.[\w.]+)", text):
            pkgutil.resolve_name(dotted)


def test_every_guarantee_of_storage_names_a_test_that_there_is():
    table = [line for line in text_of("docs/storage.md").splitlines() if "|" in line]
    named = re.findall(r"\btest_\w+(?!\w*\.py)\b", "\n".join(table))
    tests = "".join(f.read_text() for f in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) >= 10
    assert set(named) <= set(re.findall(r"def (test_\w+)", tests))


def test_the_python_on_both_front_pages_is_one_program_and_runs():
    block = re.compile(r"```python\n(.*?)```", re.DOTALL)
    ((english,), (chinese,)) = (block.findall(text_of(name)) for name in READMES)
    assert ast.dump(ast.parse(english)) == ast.dump(ast.parse(chinese))
    exec(english, {})
