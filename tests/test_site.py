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


@pytest.mark.long
def test_every_page_fits_every_width_in_light_and_dark_and_asks_for_nothing():
    if not SITE.is_dir():
        pytest.skip("there is no site: python -m experiments.book")
    pages = [f for f in SITE.rglob("*.html") if "_static" not in f.parts]
    with chromium() as browser:
        for page in pages:
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
            assert browser.get_log("browser") == [], page
        sent = [
            json.loads(entry["message"]) for entry in browser.get_log("performance")
        ]
    asked = [m["message"]["params"].get("request", {}).get("url") for m in sent]
    assert {str(url).partition(":")[0] for url in asked if url} <= {"file", "data"}
