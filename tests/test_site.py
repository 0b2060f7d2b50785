"""The book as a site: its links lead somewhere, and it looks right in a browser."""

import json
from pathlib import Path

import pytest
from support import chromium, show

from experiments import book

SITE = Path(__file__).parents[1] / "site"  # where `python -m experiments.book` puts it


def test_a_dead_link_a_missing_anchor_and_a_load_from_outside_are_named(tmp_path):
    page = tmp_path / "one page.html"
    page.write_text(
        '<h1 id="top"></h1><a href="one%20page.html#top"></a><a href="#top"></a>'
        '<a href="https://example.org"></a><img src="data:,"><a href="?q=1#top"></a>'
    )
    assert book.dead_links(tmp_path) == []
    wrong = ("other.html", "#end", "one%20page.html#end", "https://example.org/a.js")
    page.write_text(
        f'<a href="{wrong[0]}"></a><a href="{wrong[1]}"></a><a href="{wrong[2]}"></a>'
        f'<script src="{wrong[3]}"></script>'
    )
    found = book.dead_links(tmp_path)
    assert [line.split()[-1] for line in found] == list(wrong)


@pytest.fixture
def browser():
    if not SITE.is_dir():
        pytest.skip("there is no site: python -m experiments.book")
    with chromium() as chrome:
        yield chrome


@pytest.mark.long
def test_every_page_fits_every_width_in_light_and_dark_and_asks_for_nothing(browser):
    for page in SITE.rglob("*.html"):
        if "_static" in page.parts:
            continue
        for width, scheme in ((360, "dark"), (800, "light"), (1400, "dark")):
            show(browser, page.as_uri(), width, scheme)
            wide, broken, theme = browser.execute_script(
                """
                const page = document.documentElement;
                return [
                  page.scrollWidth - page.clientWidth,
                  [...document.images].filter(i => i.complete && !i.naturalWidth)
                    .map(i => i.src),
                  page.dataset.theme,
                ]"""
            )
            assert (wide, broken, theme) == (0, [], scheme), (page, width)
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert [
        line for line in said if "[PST]" not in line and "theme mode" not in line
    ] == []
    log = [json.loads(row["message"]) for row in browser.get_log("performance")]
    asked = [entry["message"]["params"].get("request", {}) for entry in log]
    kinds = {request["url"].partition(":")[0] for request in asked if "url" in request}
    assert "file" in kinds
    assert kinds <= {"file", "data"}


@pytest.mark.long
def test_answers_are_folded_and_the_keyboard_opens_them_and_moves_lambda(browser):
    from selenium.webdriver import Keys

    show(browser, (SITE / "weight_decay.html").as_uri(), 800, "light")
    answers = browser.find_elements("css selector", ".solution details")
    assert len(answers) >= 6
    assert not any(answer.get_attribute("open") for answer in answers)
    answers[0].find_element("tag name", "summary").send_keys(Keys.ENTER)
    assert answers[0].get_attribute("open")
    slider, told = (
        browser.find_element("css selector", f".explore {name}")
        for name in ("input", "output")
    )
    before = told.text
    assert before.startswith("lambda 0.5")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert told.text.startswith("lambda ")
    assert told.text != before


@pytest.mark.long
def test_a_search_on_the_chinese_pages_finds_a_chinese_word(browser):
    from selenium.webdriver.support.wait import WebDriverWait

    show(browser, (SITE / "zh/search.html").as_uri() + "?q=过拟合", 800, "light")
    found = WebDriverWait(browser, 30).until(
        lambda chrome: chrome.find_elements("css selector", "#search-results li a")
    )
    assert any("dropout.html" in link.get_attribute("href") for link in found)
