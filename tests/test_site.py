"""The book as a site: its links lead somewhere, and it looks right in a browser."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import chromium, show

from experiments import book
from experiments.common.explore import Explore, Panel

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


def test_a_page_without_the_figures_of_its_chapter_is_named(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    for folder in (source, site):
        folder.mkdir()
    (source / "index.md").write_text("no figure, and no page")
    (source / "a.md").write_text("plt.show()\n" * 2)
    page = site / "a.html"
    page.write_text('<img src="_images/1.png"><img src="_images/2.png">')
    assert book.missing_figures(source, site) == []
    page.write_text('<img src="_images/1.png"><img src="_static/logo.png">')
    assert book.missing_figures(source, site) == ["site/a.html: 1 of 2 figures"]


def test_the_data_of_a_figure_are_written_beside_its_page(tmp_path):
    lines = {"growing": np.arange(6.0).reshape(2, 3), "fixed": [1.0, np.nan, 123456]}
    panel = Panel(("x", "y"), [1, 2, 3], lines=lines, cursor="size")
    figure = Explore(
        "grown", {"size": [0.1, 0.2]}, panel, told={"end": [2, 5]}, start=[1]
    )
    (tmp_path / "page.html").write_text(f"<p></p>{figure._repr_html_()}<p></p>")
    book.write_data(tmp_path)
    assert book.dead_links(tmp_path) == []
    data = json.loads((tmp_path / "grown.json").read_text())
    assert data == json.loads(json.dumps(figure.data))
    assert data["panels"][0]["lines"] == {
        "growing": [0, 1, 2, 3, 4, 5],
        "fixed": [1, None, 123500],
    }
    (low, high), ticks = data["panels"][0]["limits"][1], data["panels"][0]["ticks"][1]
    assert low <= 0 < 123456 <= high
    assert low <= min(ticks) < max(ticks) <= high


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
def test_the_keyboard_opens_answers_and_paper_shows_them_all(browser):
    from selenium.webdriver import Keys

    def shown(selector):
        nodes = f"[...document.querySelectorAll('{selector}')]"
        return browser.execute_script(f"return {nodes}.map(n => n.checkVisibility())")

    show(browser, (SITE / "weight_decay.html").as_uri(), 800, "light")
    code, slider = ".solution pre", ".explore input"
    assert not any(shown(code))
    browser.find_element("css selector", ".solution summary").send_keys(Keys.ENTER)
    first, *_, last = shown(code)
    assert first
    assert not last
    assert shown(slider) == [True]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert len(shown(code)) >= 6
    assert all(shown(code))
    assert shown(slider) == [False]


EXPLORED = {
    "preface": ["drift"],
    "dropout": ["dropout"],
    "weight_decay": ["weight_decay"],
    "initialization": ["initialization"],
    "house_prices": ["folds", "learning_rates"],
}


@pytest.mark.long
@pytest.mark.parametrize("chapter", EXPLORED)
def test_the_keyboard_moves_each_slider_of_a_figure_whose_data_lie_beside(
    chapter, browser
):
    from selenium.webdriver import Keys

    page = SITE / f"{chapter}.html"
    assert page.stat().st_size < 3e6
    show(browser, page.as_uri(), 360, "light")
    figures = browser.find_elements("css selector", "figure.explore")
    assert [figure.get_attribute("id") for figure in figures] == EXPLORED[chapter]
    for figure, name in zip(figures, EXPLORED[chapter], strict=True):
        data = json.loads(page.with_name(f"{name}.json").read_text(encoding="utf-8"))
        told = figure.find_element("tag name", "output")
        sliders = figure.find_elements("tag name", "input")
        paths = figure.find_elements("css selector", "svg path")
        assert len(sliders) == len(data["sliders"])
        for slider, values in zip(sliders, data["sliders"].values(), strict=True):
            slider.send_keys(Keys.END)
            end, drawn = told.text, [path.get_attribute("d") for path in paths]
            slider.send_keys(Keys.HOME)
            assert told.text != end
            assert [path.get_attribute("d") for path in paths] != drawn
            slider.send_keys(Keys.ARROW_RIGHT)
            word = slider.get_attribute("aria-valuetext").split()[-1]
            if not isinstance(values[1], str):
                word, values[1] = float(word), pytest.approx(values[1], 0.01)
            assert word == values[1]


@pytest.mark.long
def test_no_page_has_a_violation_that_an_empty_page_of_the_theme_has_not(
    browser, tmp_path
):
    axe_core = pytest.importorskip("axe_core_python")
    pytest.importorskip("sphinx_book_theme")
    axe = Path(axe_core.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    (tmp_path / "index.rst").write_text("Title\n=====\n\nA paragraph.\n")
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-C", ".", "site"]
    theme = ["-D", "html_theme=sphinx_book_theme"]
    subprocess.run(sphinx + theme, cwd=tmp_path, check=True)

    browser.set_script_timeout(300)  # the reference is long

    def violations(page, width, scheme):
        show(browser, page.as_uri(), width, scheme)
        browser.execute_script(axe)
        found = browser.execute_async_script(
            "const [done] = arguments; axe.run().then(r => done(r.violations))"
        )
        return Counter({rule["id"]: len(rule["nodes"]) for rule in found})

    pages = [page for page in SITE.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) > 20
    for width, scheme in ((1400, "light"), (360, "dark")):
        allowed = violations(tmp_path / "site/index.html", width, scheme)
        for page in pages:
            assert violations(page, width, scheme) <= allowed, page


@pytest.mark.long
def test_a_search_on_the_chinese_pages_finds_a_chinese_word(browser):
    from selenium.webdriver.support.wait import WebDriverWait

    show(browser, (SITE / "zh/search.html").as_uri() + "?q=过拟合", 800, "light")
    found = WebDriverWait(browser, 30).until(
        lambda chrome: chrome.find_elements("css selector", "#search-results li a")
    )
    assert any("dropout.html" in link.get_attribute("href") for link in found)
