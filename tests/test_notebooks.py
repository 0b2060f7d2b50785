"""The notebooks: each runs from top to bottom, and what it asserts holds."""

import tempfile
from pathlib import Path

import jupytext
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return jupytext.read(request.param)


def test_every_topic_of_the_book_has_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == [
        *("backprop", "blocks", "dropout", "initialization"),
        *("layers", "parameters", "storage", "weight_decay"),
    ]


def test_a_notebook_runs_from_top_to_bottom_and_shows_a_figure(
    notebook, monkeypatch, tmp_path
):
    shown = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    mpl.use("agg")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    exec("\n".join(code), {"__name__": "__main__"})
    plt.close("all")
    assert shown


def test_a_notebook_becomes_a_valid_ipynb_that_starts_and_ends_with_words(notebook):
    converted = nbformat.reads(jupytext.writes(notebook, fmt="ipynb"), as_version=4)
    nbformat.validate(converted)
    first, *_, last = converted.cells
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "(D2L " in first.source
    assert last.source.startswith("**To try.**")
    assert converted.metadata.kernelspec.name == "python3"
