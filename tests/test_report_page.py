"""The page of `report`: whole, honest about what is missing, and safe to open."""

import importlib
import itertools
import json
import os
import signal
import sys
import time
from html.parser import HTMLParser

import pytest
from PIL import Image
from support import chromium, show

from experiments import report
from experiments.__main__ import experiments
from experiments.common import cli
from experiments.common.errors import UsageError
from experiments.report import page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
NAMES = ("benchmark", "compare", "dropout", "storage")
RUN = sorted(set(experiments()) - report.LEFT_OUT)


def write_run(folder, name, record, data=None, **environment):
    """Write what the page reads of a run."""
    folder.mkdir(parents=True)
    env = {"command": f"python -m experiments.{name} --seed 3", "python": "3.11"}
    env |= {"devices": ["cpu", "cpu"], "processes": 1, "packages": {"jax": "0.10.2"}}
    env |= {"processor": "AMD", "cpu_count": 2, "system": "Linux", "variables": {}}
    summary = {"experiment": name, "data": data, "seconds": {"total": 1.25}}
    files = {"summary": summary, "record": record, "env": env | environment}
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    for figure in record.get("figures", []):
        Image.new("1", (1360, 512)).save(folder / figure["file"])
        if "narrow" in figure:
            Image.new("1", (680, 1024)).save(folder / figure["narrow"])


def table(rows, title="Numbers"):
    return {"title": title, "columns": ["what", "n"], "rows": rows, "num_texts": 1}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of invented runs; of storage there is none."""
    root = tmp_path_factory.mktemp("runs")
    shown = {
        "headline": "Test accuracy: 0.8.",
        "tables": [table([["with", "0.8"]])],
        "figures": [
            {"file": f"{n}.png", "caption": f"The {n}.", "alt": f"A chart of {n}."}
            for n in ("predictions", "curves")
        ],
    }
    shown["figures"][1]["narrow"] = "curves-narrow.png"
    write_run(root / "deep" / "er", "dropout", shown, data="mini")
    long = table([[f"JAX, number {i}", str(i)] for i in range(30)])
    write_run(root / "benchmark", "benchmark", {"tables": [long]})
    hostile = {
        "headline": HOSTILE,
        "tables": [table([[HOSTILE, HOSTILE]], title=HOSTILE)],
        "figures": [{"file": "x.png", "caption": HOSTILE, "alt": HOSTILE}],
    }
    strange = {"devices": [HOSTILE], "variables": {HOSTILE: HOSTILE}}
    write_run(root / "strange", "compare", hostile, data=HOSTILE, **strange)
    return root


class Reader(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def words(self):
        return " ".join(self.text.split())


def rendered(folder, names=("dropout",)):
    return page.render(report.find_runs([folder], names), "python -m it")


@pytest.fixture(scope="session")
def html(runs):
    return rendered(runs, NAMES)


@pytest.fixture(scope="session")
def read(html):
    return Reader(html)


def test_what_a_run_recorded_is_shown_with_its_command(read):
    images = read.all("img")
    assert [image["alt"] for image in images if image["alt"] != HOSTILE] == [
        "A chart of predictions.",
        "A chart of curves.",
    ]
    assert {(image["width"], image["height"]) for image in images} == {("1360", "512")}
    for shown in (
        *("Test accuracy: 0.8.", "with 0.8", "The curves.", "2 x cpu"),
        *("python -m experiments.dropout --seed 3", "took 1.2 s"),
        "the shipped tenth of Fashion-MNIST",
    ):
        assert shown in read.words()


def test_hostile_text_stays_text(html, read):
    assert not [attrs for _, attrs in read.tags if "onerror" in attrs]
    assert read.text.count(HOSTILE) >= 5
    assert HOSTILE not in html


def test_nothing_outside_the_file_is_asked_for(html, read):
    for tag, attrs in read.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for source in ("src", "srcset"):
            assert attrs.get(source, "data:").startswith("data:")
        assert attrs.get("href", "#").startswith(("#", "data:"))
    assert "url(" not in html
    assert "@import" not in html


def test_the_contents_lead_to_every_section(read):
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for attrs in read.all("a")]
    assert {*NAMES, "main"} <= set(links) <= set(ids)


def test_what_is_missing_is_listed_with_its_reason(read, runs):
    assert f"no run was found in {runs}" in read.words()


def test_a_run_without_a_record_says_how_to_get_one(tmp_path):
    write_run(tmp_path / "old", "dropout", {})
    assert page.OLD in Reader(rendered(tmp_path)).words()


@pytest.mark.parametrize("content", [None, b"", b"root:x:0:0:root:/root:/bin/bash\n"])
def test_a_page_is_made_without_a_figure_that_is_gone_or_no_figure(content, tmp_path):
    figures = [{"file": "x.png", "caption": "c", "alt": "a"}]
    write_run(tmp_path / "run", "dropout", {"figures": figures})
    (tmp_path / "run" / "x.png").unlink()
    if content is not None:
        (tmp_path / "run" / "x.png").write_bytes(content)
    with pytest.warns(UserWarning, match="without .*x.png, which is no PNG"):
        html = rendered(tmp_path)
    assert not Reader(html).all("img")


def test_the_newest_run_of_an_experiment_is_taken(tmp_path):
    for age, name in enumerate(("new", "old")):
        write_run(tmp_path / name, "dropout", {})
        os.utime(tmp_path / name / "summary.json", (1e9 - age, 1e9 - age))
    (entry,) = report.find_runs([tmp_path], ["dropout"])
    assert entry.folder == tmp_path / "new"


def test_a_file_that_is_no_summary_is_skipped_with_a_warning(tmp_path, capsys):
    (tmp_path / "summary.json").write_text("[1, 2")
    (entry,) = report.find_runs([tmp_path], ["dropout"])
    assert entry.folder is None
    assert f"{tmp_path / 'summary.json'} is not" in capsys.readouterr().err


@pytest.mark.parametrize("name", report.QUICK)
def test_the_flags_of_a_quick_run_are_flags_of_the_experiment(name):
    assert {name} | report.TOO_LONG <= set(RUN)
    config_type = importlib.import_module(f"experiments.{name}").Config
    assert cli.parse(config_type, report.QUICK[name])


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Let a shell script stand for Python, and two names for the experiments."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        'for out; do :; done\nmkdir "$out"\necho "$@" > "$out/args"\n'
        'case $2 in *bad) echo first >&2; echo "error: no" >&2; exit 1;; esac\n'
        "case $2 in *slow) kill -INT $PPID; sleep 60;; esac\n"
        """echo '{"experiment": "good"}' > "$out/summary.json"\n"""
        """echo '{"headline": "It is 42."}' > "$out/record.json"\n"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return lambda *names: monkeypatch.setattr(
        report, "experiments", lambda: {name: f"On {name}." for name in names}
    )


@pytest.mark.parametrize("quick", [False, True])
def test_each_experiment_is_run_and_a_failure_is_shown(
    stand_in, tmp_path, capsys, quick
):
    stand_in("good", "bad", "storage", "compare")
    config = report.Config(out=tmp_path / "report", seed=5, quick=quick)
    assert report.run(config) == 1
    text = Reader((config.out / "index.html").read_text()).words()
    assert "Failed: exit code 1: error: no" in text
    assert "It is 42." in text
    command = "experiments.storage" + " --flips 20 --kills 1" * quick + " --seed 5"
    assert command in text
    assert command in capsys.readouterr().out
    (args,) = config.out.glob("runs/*/storage/args")
    assert args.read_text().startswith(f"-m {command} --out ")
    assert ("Not run: --quick leaves it out" in text) == quick


def test_only_a_page_of_its_own_is_replaced(stand_in, tmp_path):
    stand_in("good")
    config, index = report.Config(out=tmp_path), tmp_path / "index.html"
    assert [report.run(config), report.run(config)] == [0, 0]
    assert len(list(tmp_path.glob("runs/*"))) == 2
    index.write_text("of a web application")
    with pytest.raises(UsageError, match=r"index\.html is not a page of this command"):
        report.run(config)
    assert index.read_text() == "of a web application"


def test_an_interrupt_ends_the_run_in_progress(stand_in, tmp_path):
    stand_in("slow")
    start = time.monotonic()
    # A shell starts its background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            report.run(report.Config(out=tmp_path / "report"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "report" / "index.html").exists()


@pytest.mark.long
def test_the_real_experiments_make_a_quick_report_with_a_headline_each(tmp_path):
    config = report.Config(out=tmp_path, quick=True, platform="cpu")
    assert report.run(config) == 0
    for entry in report.find_runs([tmp_path], set(RUN) - report.TOO_LONG):
        assert page.section(entry).headline


@pytest.fixture(scope="module")
def browser(tmp_path_factory, html):
    """Chromium without a window, and the page in a file."""
    file = tmp_path_factory.mktemp("browser") / "index.html"
    file.write_text(html)
    with chromium() as chrome:
        chrome.address = file.as_uri()
        yield chrome


def test_in_a_browser_it_fits_every_width_and_both_colour_schemes(browser):
    backgrounds = {}
    for scheme, width in itertools.product(("light", "dark"), (360, 800, 1400)):
        show(browser, browser.address, width, scheme)
        wide, images, backgrounds[scheme] = browser.execute_script(
            """
            const page = document.documentElement;
            return [
              page.scrollWidth - page.clientWidth,
              [...document.images].map(image => image.naturalWidth),
              getComputedStyle(document.body).backgroundColor,
            ]"""
        )
        assert wide <= 0, (scheme, width)
        assert images == [1360, 1360, 680 if width == 360 else 1360]
    assert backgrounds["light"] != backgrounds["dark"]
    assert browser.get_log("browser") == []


def test_in_a_browser_the_keyboard_leads_to_all_of_it(browser):
    from selenium.webdriver import Keys

    show(browser, browser.address, 360, "light")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    assert skip.rect["y"] >= 0
    assert skip.value_of_css_property("outline-style") == "solid"
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    for part in browser.find_elements("class name", "scroll"):
        assert part.get_attribute("tabindex") == "0"
        assert part.get_attribute("aria-labelledby")
