"""Every block of docs/text.md runs on both sides, with the results the page claims."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from support import relative_difference

PAGE = (Path(__file__).parents[2] / "docs" / "text.md").read_text(encoding="utf-8")
SETUP, *SECTIONS = re.split(r"^### ", PAGE, flags=re.MULTILINE)
CODE = re.compile(r"^```python (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERDICT = re.compile(r"^\*(?:Agree to ([\d.e-]+)|Equal)\.\*", re.MULTILINE)
TITLES = [section.partition("\n")[0] for section in SECTIONS]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run every block in order, each side in a namespace of its own.

    Results are copied at once: PyTorch changes arrays in place.
    """
    sides = {"torch": {}, "jax": {}}
    found = {"torch": [], "jax": []}
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        for side, names in sides.items():
            patch.chdir(tmp_path_factory.mktemp(side))
            for title, section in zip(
                ["setup", *TITLES], [SETUP, *SECTIONS], strict=True
            ):
                for kind, code in CODE.findall(section):
                    if kind in ("both", side):
                        exec(compile(code, f"{title}, {side}", "exec"), names)
                found[side].append(plain(names.pop("result", None)))
    return list(zip(found["jax"][1:], found["torch"][1:], strict=True))


def plain(value):
    """Return lists and NumPy arrays for what either side calls its result."""
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


@pytest.mark.parametrize("number", range(len(SECTIONS)), ids=TITLES)
def test_the_block_gives_on_both_sides_what_the_page_says(number, results):
    ours, theirs = results[number]
    (verdict,) = VERDICT.finditer(SECTIONS[number])
    compared = list(pairs(ours, theirs))
    assert compared
    for a, b in compared:
        assert np.shape(a) == np.shape(b)
        if verdict[1] is None:
            np.testing.assert_array_equal(a, b)
        else:
            assert relative_difference(a, b) <= float(verdict[1])


def test_the_blocks_are_numbered_and_name_commands_and_modules_that_exist():
    numbers = [int(title.partition(".")[0]) for title in TITLES]
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
