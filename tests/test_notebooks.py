"""The notebooks: each runs from top to bottom, and what it asserts holds."""

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import jupytext
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return jupytext.read(request.param)


def test_every_chapter_room_has_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == [
        *("backprop", "blocks", "dropout", "house_prices", "initialization"),
        *("layers", "parameters", "storage", "weight_decay"),
    ]


def test_a_notebook_runs_from_top_to_bottom_and_shows_a_figure(
    notebook, monkeypatch, tmp_path
):
    shown = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    mpl.use("agg")
    namespace = {"__name__": "__main__"}
    try:
        for source in code_of(notebook):
            exec(source, namespace)
    finally:
        plt.close("all")
    assert shown


def test_a_notebook_becomes_a_valid_ipynb_that_starts_and_ends_with_words(notebook):
    converted = nbformat.reads(jupytext.writes(notebook, fmt="ipynb"), as_version=4)
    nbformat.validate(converted)
    first, *middle, last = converted.cells
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "(D2L " in first.source
    assert last.source.startswith("**To try.**")
    assert any(cell.cell_type == "markdown" for cell in middle)
    assert converted.metadata.kernelspec.name == "python3"


def test_all_notebooks_begin_with_the_same_code():
    assert len({code_of(jupytext.read(path))[0] for path in NOTEBOOKS}) == 1


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What the first code runs, where the package is not installed."""
    found = []
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda args, check: found.append(args))
    return found


@pytest.mark.parametrize(("folder", "source"), [(".", "."), ("notebooks", "..")])
def test_the_first_code_installs_the_clone_that_it_runs_in(
    folder, source, commands, monkeypatch, tmp_path
):
    (tmp_path / "ch4jax").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    exec(code_of(jupytext.read(NOTEBOOKS[0]))[0], {})
    ((_, *command),) = commands
    assert command == ["-m", "pip", "install", "-q", source]


def test_outside_a_clone_nothing_is_installed_under_a_name_that_may_not_be_ours(
    commands, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(ModuleNotFoundError, match="in a clone"):
        exec(code_of(jupytext.read(NOTEBOOKS[0]))[0], {})
    assert commands == []
