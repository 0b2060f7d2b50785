"""What the README promises: commands that parse, numbers that were measured.

A comment like `<!-- backprop.json: quantities / w1 / difference -->` binds the number
before it to that entry of `docs/results/backprop.json`; `a; b` binds the last two. A
part of a path is a key, an index, or a value that selects rows of a list. A list of
numbers is read as its mean, any other list or dictionary as its length.
"""

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

from experiments.common import cli

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.zh-CN.md"]
DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m (experiments\.\w+[^`|\n#&]*)")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?<!,)")
COMMENT = re.compile(r"<!-- ([\w-]+\.json): (.*?) -->", re.DOTALL)
RESULTS = {
    path.name: json.loads(path.read_text(encoding="utf-8"))
    for path in (ROOT / "docs" / "results").glob("*.json")
}


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name):
    """Return module and arguments of every command in a README."""
    found = COMMAND.findall(text_of(name))
    whole = {" ".join(shlex.split(command)) for command in found}
    return sorted(whole - {"experiments.NAME"})


def rows(name):
    """Return the rows of the table of measurements: what, measured, command."""
    lines = text_of(name).splitlines()
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if "|" in line]
    return [row for row in cells if len(row) == 3 and "`" in row[2]]


def bindings(text):
    """Yield every bound number as it is written, with its result file and path."""
    for comment in COMMENT.finditer(text):
        paths = [" ".join(path.split()) for path in comment[2].split(";")]
        before = NUMBER.findall(COMMENT.sub("", text[: comment.start()]))
        for written, path in zip(before[-len(paths) :], paths, strict=True):
            yield written, comment[1], path


BOUND = [
    pytest.param(*binding, id=f"{binding[0]} in {name}")
    for name in ("README.md", "docs/scaling.md")
    for binding in bindings(text_of(name))
]


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
    if isinstance(node, int | float):
        return node
    all_numbers = isinstance(node, list) and isinstance(node[0], float)
    return statistics.mean(node) if all_numbers else len(node)


def rounded_as(written, value):
    """Return `value` in the form of the number `written`."""
    digits, exponent = re.fullmatch(r"[\d,]+\.?(\d*)(e.*)?", written).groups()
    kind = "e" if exponent else "f"
    return f"{value:{',' if ',' in written else ''}.{len(digits)}{kind}}"


def shifted(node, unit):
    """Return a result with numbers larger by `unit`, and lists longer by one."""
    if isinstance(node, dict):
        return {key: shifted(value, unit) for key, value in node.items()} | {"": None}
    if isinstance(node, list):
        more = [shifted(value, unit) for value in node]
        return [*more, {}] if node and isinstance(node[0], dict) else more
    return node + unit if isinstance(node, int | float) else node


@pytest.mark.parametrize("name", READMES)
def test_every_command_has_a_module_and_flags_that_it_knows(name):
    found = commands(name)
    assert len(found) >= 10
    for command in found:
        module, *arguments = command.split()
        own = list(itertools.takewhile(lambda word: word != "--", arguments))
        cli.parse(importlib.import_module(module).Config, own)


@pytest.mark.long
@pytest.mark.parametrize("command", commands("README.md"))
def test_every_command_of_the_front_page_runs(command, tmp_path):
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    no_such_device = "--platform gpu: no such device here" in done.stderr
    assert done.returncode == (2 if no_such_device else 0), done.stderr
    assert no_such_device or list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(("written", "file", "path"), BOUND)
def test_a_bound_number_is_its_result_rounded(written, file, path):
    assert rounded_as(written, value_at(RESULTS[file], path)) == written


@pytest.mark.parametrize(("written", "file", "path"), BOUND)
def test_one_unit_more_in_the_result_is_another_number(written, file, path):
    mantissa, _, exponent = written.partition("e")
    decimals = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    other = value_at(shifted(RESULTS[file], unit), path)
    assert rounded_as(written, other) != written


def test_every_measured_number_of_the_table_is_bound():
    table = rows("README.md")
    assert len(table) >= 10
    for what, measured, _ in table:
        bound = [written for written, _, _ in bindings(measured)]
        assert bound == NUMBER.findall(COMMENT.sub("", measured)), what


def test_both_readmes_have_the_same_commands_numbers_and_links():
    english, chinese = (text_of(name) for name in READMES)
    assert commands("README.md") == commands("README.zh-CN.md")
    for a, b in zip(rows("README.md"), rows("README.zh-CN.md"), strict=True):
        assert a[2] == b[2]
        assert NUMBER.findall(COMMENT.sub("", a[1])) == NUMBER.findall(b[1])
    assert {written for written, _, _ in bindings(english)} <= set(
        NUMBER.findall(chinese)
    )
    links = re.compile(r"\]\(([^)]+)\)")
    other = {"README.md", "README.zh-CN.md"}
    assert set(links.findall(english)) - other == set(links.findall(chinese)) - other


@pytest.mark.parametrize("name", [*READMES, "CHANGELOG.md", "CONTRIBUTING.md", *DOCS])
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
    files = (ROOT / "tests").rglob("test_*.py")
    known = set(re.findall(r"def (test_\w+)", "".join(f.read_text() for f in files)))
    assert len(named) >= 10
    assert set(named) <= known


@pytest.mark.parametrize("name", READMES)
def test_the_python_on_the_front_page_runs(name):
    blocks = re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
