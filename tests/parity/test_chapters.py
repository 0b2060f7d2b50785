"""The chapters of the book: their cells run, and no paragraph lacks its translation."""

import ast
import csv
import re
from pathlib import Path

import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

BOOK = Path(__file__).parents[2] / "book"
PAGES = {"index", "index_zh", "reference"}  # without cells
CHAPTERS = sorted({path.stem for path in BOOK.glob("*.md")} - PAGES)
CELL = re.compile(
    r"^```\{code-cell\} python3\n(?::tags: [^\n]*\n\n)?(.*?)^```$", re.M | re.S
)
ANSWER = re.compile(
    r"^`{4}\{solution-start\} (\S+)$(.*?)^`{4}\{solution-end\}$", re.M | re.S
)
ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.M)
FORMULA = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.M | re.S)
NOT_PROSE = (
    r"\A---\n.*?^---$",
    r"^`{4}.*?^`{4}$",
    r"^```\{.*?^```$",
    r"^\$\$.*?^\$\$$",
)
BOUND = re.compile(r"[\d.,e-]+ <!-- .*? -->")
with (BOOK / "glossary.csv").open(encoding="utf-8") as file:
    GLOSSARY = {row["english"]: row["chinese"] for row in csv.DictReader(file)}
# Code, comments, formulas, roles and the English titles of references.
NOT_WORDS = re.compile(r"`[^`]*`|<!--.*?-->|\$[^$]*\$|\{\w+\}|\*[^*]{30,}\*")


def source(chapter):
    return (BOOK / f"{chapter}.md").read_text(encoding="utf-8")


def catalogue(chapter):
    path = BOOK / "locale/zh_CN/LC_MESSAGES" / f"{chapter}.po"
    found = ENTRY.findall(path.read_text(encoding="utf-8"))
    return {ast.literal_eval(f"({a})"): ast.literal_eval(f"({b})") for a, b in found}


def messages(chapter):
    """Return headings, paragraphs, items and formulas as Sphinx's catalogues do."""
    text = source(chapter)
    found = set(FORMULA.findall(text))
    for pattern in NOT_PROSE:
        text = re.sub(pattern, "\n", text, flags=re.M | re.S)
    blocks = re.split(r"\n\s*\n|\n(?=- )", text)
    return found | {" ".join(block.lstrip("#- ").split()) for block in blocks} - {""}


def terms_of(english):
    """Return the words of the glossary that begin a word of a message."""
    prose = NOT_WORDS.sub("", english)
    return {term for term in GLOSSARY if re.search(rf"\b{term}", prose, re.I)}


def wrong_terms(translated):
    """Return each term whose Chinese term its translation lacks."""
    pairs = [(t, zh) for en, zh in translated.items() for t in terms_of(en)]
    return [term for term, chinese in pairs if GLOSSARY[term] not in chinese]


@pytest.mark.long
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_from_top_to_bottom_answers_included(chapter, monkeypatch):
    mpl.use("agg")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names = {"__name__": "__main__"}
    for number, code in enumerate(CELL.findall(source(chapter))):
        # Readers write x @ kernel + bias, and compare runs that have the same keys.
        with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
            exec(compile(code, f"{chapter}, cell {number}", "exec"), names)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_of_six_or_more_has_an_answer_that_asserts_it(chapter):
    answers = ANSWER.findall(source(chapter))
    labels = re.findall(r"^:label: (\S+)$", source(chapter), re.M)
    assert [label for label, _ in answers] == labels
    assert len(set(labels)) >= 6
    for label, answer in answers:
        assert re.search("^assert ", "\n".join(CELL.findall(answer)), re.M), label


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_paragraph_has_its_partner_in_chinese_and_no_partner_is_stale(chapter):
    translated = catalogue(chapter)
    assert translated.keys() - {""} == messages(chapter)
    # A comment that begins a line ends its paragraph for Sphinx, and "1." does.
    assert not re.search(r"(?<!\n)\n *(<!--|1\. )", source(chapter))
    for english, chinese in translated.items():
        assert chinese, english
        assert BOUND.findall(chinese) == BOUND.findall(english)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chinese_has_the_terms_of_the_chinese_edition(chapter):
    assert wrong_terms(catalogue(chapter)) == []


def test_another_word_for_a_term_is_noticed_and_no_term_is_without_use():
    planted = {"Dropout hides *units*, `mask` is code.": "丢弃法隐藏单元。"}
    assert wrong_terms(planted) == ["dropout"]
    used = {term for c in CHAPTERS for en in catalogue(c) for term in terms_of(en)}
    assert used == GLOSSARY.keys()
