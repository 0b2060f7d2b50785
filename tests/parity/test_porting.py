"""Every pair of docs/porting.md runs and gives what the page says."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from support import largest_difference

PAGE = (Path(__file__).parents[2] / "docs" / "porting.md").read_text(encoding="utf-8")
CONTENTS, SETUP, *PAIRS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERDICT = re.compile(r"^\*(?:Agree to ([\d.e-]+)|Differ)\.\*$", re.MULTILINE)


def title(section):
    return section.partition("\n")[0]


def run(section, side):
    """Return the `result` of one side of a pair, as a list of arrays."""
    names = {}
    for part in (SETUP, section):
        for language, code in BLOCK.findall(part):
            if language in ("python both", f"python {side}"):
                exec(compile(code, f"{title(part)}, {side}", "exec"), names)
    result = names["result"]
    results = result if isinstance(result, list) else [result]
    return [np.asarray(r.detach() if torch.is_tensor(r) else r) for r in results]


@pytest.mark.parametrize("pair", PAIRS, ids=title)
def test_the_pair_gives_what_the_page_says(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (verdict,) = VERDICT.finditer(pair)
    with jax.numpy_rank_promotion("allow"):
        theirs, ours = run(pair, "torch"), run(pair, "jax")
    difference = largest_difference(zip(ours, theirs, strict=True))
    if verdict[1] is None:
        assert difference > 0.1
    else:
        assert difference <= float(verdict[1])


def test_every_block_is_run_and_every_section_is_in_the_contents():
    for section in (SETUP, *PAIRS):
        languages = [language for language, _ in BLOCK.findall(section)]
        assert languages[-2:] == ["python torch", "python jax"]
        assert languages[:-2] in ([], ["python both"])
    words = [re.sub(r"[^\w -]", "", title(pair)) for pair in PAIRS]
    anchors = [text.lower().replace(" ", "-") for text in words]
    assert re.findall(r"\(#(.*?)\)", CONTENTS) == anchors


@pytest.mark.parametrize("words", ["README.md: idioms", "README.zh-CN.md: 个 PyTorch"])
def test_the_front_pages_count_the_pairs(words):
    file, _, after = words.partition(": ")
    page = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
    assert f"{len(PAIRS)} {after}" in page.replace("\n", " ")
