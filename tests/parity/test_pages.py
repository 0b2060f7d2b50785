"""The blocks of three pages of docs/ run, with the results that the pages claim."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from support import largest_difference

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^```python (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERDICT = re.compile(r"^\*(?:Agree to ([\d.e-]+)|Equal|(Differ))\.\*", re.MULTILINE)


def read(name, heading):
    """Return the sections of a page."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.split(rf"^{heading} ", page, flags=re.MULTILINE)


SETUP, *SECTIONS = read("text.md", "###")
CONTENTS, PORTING, *PAIRS = read("porting.md", "##")


def title(section):
    return section.partition("\n")[0]


def run(section, side, names):
    """Run the blocks of one side; return a copy of what they call the result."""
    for kind, code in CODE.findall(section):
        if kind in ("both", side):
            exec(compile(code, f"{title(section)}, {side}", "exec"), names)
    return plain(names.pop("result", None))


def plain(value):
    """Return lists and NumPy arrays, which PyTorch does not change in place."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if torch.is_tensor(value):
        return value.detach().numpy().copy()
    return np.asarray(value) if isinstance(value, jax.Array) else value


def pairs(ours, theirs):
    """Yield the arrays and values of two results in pairs."""
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            yield from pairs(a, b)
    else:
        yield ours, theirs


def check(section, theirs, ours):
    """Compare two results as the section says."""
    (verdict,) = VERDICT.finditer(section)
    compared = list(pairs(ours, theirs))
    assert compared
    if verdict[1]:
        assert largest_difference(compared) <= float(verdict[1])
    elif verdict[2]:
        assert largest_difference(compared) > 0.1
    else:
        for a, b in compared:
            assert np.shape(a) == np.shape(b)
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run every block of the text in order, each side in a namespace of its own."""
    found = []
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        for side in ("torch", "jax"):
            patch.chdir(tmp_path_factory.mktemp(side))
            names = {}
            found.append([run(part, side, names) for part in (SETUP, *SECTIONS)][1:])
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("number", range(len(SECTIONS)), ids=map(title, SECTIONS))
def test_the_block_gives_on_both_sides_what_the_page_says(number, results):
    check(SECTIONS[number], *results[number])


def test_the_blocks_are_numbered_and_name_commands_and_modules_that_exist():
    numbers = [int(section.partition(".")[0]) for section in SECTIONS]
    assert numbers == list(range(1, 60))
    for section in SECTIONS:
        named = re.findall(r"`((?:ch4jax|experiments|flax|jax)[.\w]+)", section)
        assert named
        for name in named:
            module, _, attribute = name.rpartition(".")
            if name.startswith("experiments."):
                assert importlib.util.find_spec(name)
            else:
                assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("pair", PAIRS, ids=title)
def test_the_pair_gives_what_the_page_says(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    with jax.numpy_rank_promotion("allow"):
        for side in ("torch", "jax"):
            names = {}
            run(PORTING, side, names)
            found.append(run(pair, side, names))
    check(pair, *found)


def test_every_block_is_run_and_every_section_is_in_the_contents():
    for section in (PORTING, *PAIRS):
        kinds = [kind for kind, _ in CODE.findall(section)]
        assert kinds[-2:] == ["torch", "jax"]
        assert kinds[:-2] in ([], ["both"])
        assert section.count("\n```") == 2 * len(kinds)
    words = [re.sub(r"[^\w -]", "", title(pair)) for pair in PAIRS]
    anchors = [text.lower().replace(" ", "-") for text in words]
    assert re.findall(r"\(#(.*?)\)", CONTENTS) == anchors


@pytest.mark.parametrize("words", ["README.md: idioms", "README.zh-CN.md: 个 PyTorch"])
def test_the_front_pages_count_the_pairs(words):
    file, _, after = words.partition(": ")
    page = (ROOT / file).read_text(encoding="utf-8")
    assert f"{len(PAIRS)} {after}" in page.replace("\n", " ")


def shown(text):
    """Return a text without the digits that another machine may round otherwise."""
    text = re.sub(r"\d\.\de[-+]\d\d(?=  | apart|\n)", "#", text)
    return re.sub(r"gradient of .*", "", text)  # in the order of their differences


def test_the_session_of_a_newcomer_prints_what_the_page_shows(capsys):
    page = (ROOT / "docs" / "your_own_model.md").read_text(encoding="utf-8")
    scope = {"__name__": "page"}
    for kind, block in re.findall(r"```(python|text)\n(.*?)```", page, re.DOTALL):
        if kind == "python":
            exec(compile(block, "your_own_model.md", "exec"), scope)
        else:
            assert shown(capsys.readouterr().out) == shown(block)
