"""The page of `report`: whole, honest about what is missing, and safe to open."""

import ast
import importlib
import json
import os
import re
import shutil
import struct
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments import report
from experiments.__main__ import experiments
from experiments.common import cli
from experiments.common.errors import UsageError
from experiments.report import figures as page_figures
from experiments.report import numbers as page_numbers
from experiments.report import page
from experiments.report import runs as page_runs
from experiments.report import tables as page_tables

ROOT = Path(__file__).parent.parent
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
SENTENCES = {
    "benchmark": "Where the time goes.",
    "compare": "PyTorch and JAX side by side.",
    "dropout": "An MLP with and without dropout.",
    "storage": "Saving and loading.",
}
RUN = sorted(set(experiments()) - report.LEFT_OUT)
SUMMARIES = sorted((ROOT / "docs" / "results").glob("*.json"))


def png(width, height):
    """Return a white picture, as wide as a figure but a few hundred bytes."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + checksum.to_bytes(4)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def write_run(folder, summary, config=None, environment=None, figures=()):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(config or {}))
    (folder / "env.json").write_text(json.dumps(environment or {"python": "3.11"}))
    for name in figures:
        (folder / name).write_bytes(png(1360, 512))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of made-up runs; of storage there is none."""
    root = tmp_path_factory.mktemp("runs")
    dropout = json.loads((ROOT / "docs" / "results" / "dropout.json").read_text())
    write_run(
        root / "deep" / "er",
        dropout,
        config={"seed": 3, "epochs": 7, "rates": [0.2, 0.5], "out": "somewhere"},
        environment={"devices": ["cpu", "cpu"], "packages": {"jax": "0.10.2"}},
        figures=("predictions.png", "curves.png"),
    )
    rows = [
        {"system": "MLP", "name": f"JAX, number {i}", "median": None, "to_pytorch": i}
        for i in range(30)
    ]
    write_run(root / "benchmark", {"experiment": "benchmark", "rows": rows})
    verdict = {"system": "MLP", "level": 1, "what": "the loss", "verdict": "equal"}
    write_run(root / "compare", {"experiment": "compare", "verdicts": [verdict]})
    write_run(
        root / "strange",
        {
            "experiment": HOSTILE,
            "data": HOSTILE,
            HOSTILE: HOSTILE,
            "rows": [{HOSTILE: HOSTILE}],
        },
        environment={"devices": [HOSTILE], "variables": {HOSTILE: HOSTILE}},
        figures=("strange.png",),
    )
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


@pytest.fixture(scope="session")
def html(runs):
    return page.render(page_runs.entries([runs], SENTENCES), "python -m it")


@pytest.fixture(scope="session")
def read(html):
    return Reader(html)


def test_every_figure_is_there_with_its_size_and_a_text_in_its_place(read):
    images = read.all("img")
    assert len(images) == 3
    for image in images:
        assert (image["width"], image["height"]) == ("1360", "512")
        assert len(image["alt"]) > 20
    words = page_figures.FIGURES["dropout"]
    texts = [words[name].alt for name in ("curves.png", "predictions.png")]
    assert [image["alt"] for image in images if image["alt"] in texts] == texts


def test_hostile_text_stays_text(html, read):
    assert not read.all("script")
    assert not [attrs for _, attrs in read.tags if "onerror" in attrs]
    assert read.text.count(HOSTILE) >= 5
    assert HOSTILE not in html


def test_nothing_outside_the_file_is_asked_for(html, read):
    for tag, attrs in read.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        assert attrs.get("src", "data:").startswith("data:")
        assert attrs.get("href", "#").startswith(("#", "data:"))
    assert "url(" not in html
    assert "@import" not in html


def test_the_contents_lead_to_every_section(read):
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for attrs in read.all("a")]
    assert {*SENTENCES, "main"} <= set(links) <= set(ids)


def test_what_is_missing_is_listed_with_its_reason(read, runs):
    assert f"no run of it was found in {runs}" in " ".join(read.text.split())


def test_a_number_that_was_not_taken_is_a_dash(runs):
    summary = json.loads((runs / "benchmark" / "summary.json").read_text())
    table = page_numbers.numbers("benchmark", summary).tables[0]
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["median"] is None
    assert first["compile"] is None  # the key is missing
    assert page_tables.shown(None) == "\N{EN DASH}"


def test_the_newest_run_of_an_experiment_is_taken(tmp_path):
    for age, name in enumerate(("new", "old")):
        write_run(tmp_path / name, {"experiment": "dropout"})
        os.utime(tmp_path / name / "summary.json", (1e9 - age, 1e9 - age))
    assert page_runs.newest([tmp_path]) == {"dropout": tmp_path / "new"}


def test_a_file_that_is_no_summary_is_passed_over_with_a_warning(tmp_path, capsys):
    (tmp_path / "summary.json").write_text("[1, 2")
    assert page_runs.newest([tmp_path]) == {}
    assert f"{tmp_path / 'summary.json'} is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("dropout", ["--epochs", "7", "--rates", "0.1", "0.3", "--seed", "2"]),
        ("house_prices", ["--recipe", "best", "--folds", "4"]),
        ("compare", ["blocks", "--quick"]),
        ("blocks", []),
    ],
)
def test_the_flags_of_a_run_can_be_told_from_its_folder(name, given):
    config_type = importlib.import_module(f"experiments.{name}").Config
    config = cli.parse(config_type, given)
    saved = json.loads(json.dumps(vars(config), default=str))
    flags = page_runs.flags(name, saved)
    assert cli.parse(config_type, flags) == config
    assert len(flags) == len(given)


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: path.stem)
def test_the_numbers_survive_whatever_a_summary_lacks(path):
    summary = json.loads(path.read_text())
    name = summary["experiment"]
    assert page_numbers.numbers(name, summary).tables
    for key in summary:
        less = {k: v for k, v in summary.items() if k != key}
        for other in (less, less | {key: None}, less | {key: [1]}, less | {key: "x"}):
            for table in page_numbers.numbers(name, other).tables:
                for row in table.rows:
                    assert all(isinstance(page_tables.shown(cell), str) for cell in row)
                    assert len(row) == len(table.columns) or not table.columns


@pytest.mark.parametrize(
    ("name", "summary", "headline"),
    [
        (
            "benchmark",
            {
                "rows": [
                    {"system": "MLP", "name": "PyTorch, eager", "to_pytorch": 1.0},
                    {"system": "MLP", "name": "JAX, scanned", "to_pytorch": 2.0},
                    {"system": "MLP", "name": "JAX, step by step", "to_pytorch": 1.5},
                    {"system": "MLP", "name": "JAX, lost", "to_pytorch": None},
                    {"system": "sweep", "name": "JAX, all", "to_pytorch": 1029.8},
                ],
                "not_run": [{"name": "GPU", "reason": "there is none"}],
            },
            "Speed of JAX over that of eager PyTorch: 1.5 to 2 (MLP), 1,030 to 1,030 "
            "(sweep).",
        ),
        (
            "compare",
            {
                "verdicts": [
                    {"system": "MLP", "verdict": "equal"},
                    {"system": "MLP", "verdict": "failed"},
                    {"system": "NestMLP", "verdict": "equal"},
                ]
            },
            "Compared with PyTorch: 2 equal, 1 failed.",
        ),
        (
            "end_to_end",
            {
                "commands": [
                    {"name": "ours, first", "median": 3.0, "ratio": 1.5},
                    {"name": "ours, warm", "median": 2.5, "ratio": 2.0},
                    {"name": "PyTorch", "median": 5.0, "ratio": 1.0},
                ]
            },
            "From start to end, PyTorch takes 2 times as long: 5 s against 2.500 s.",
        ),
        (
            "growth",
            {
                "points": [
                    {
                        "axis": "rows",
                        "size": 1024,
                        "seconds": 2.0,
                        "floor_seconds": 1.0,
                    },
                    {
                        "axis": "rows",
                        "size": 4096,
                        "seconds": 6.0,
                        "floor_seconds": 4.0,
                    },
                ]
            },
            "An epoch takes 1.50 to 2.00 times as long as its matrix products alone.",
        ),
        (
            "profile",
            {
                "whole": {"whole epoch": 0.5, "whole epoch, no dropout": 0.4},
                "parts": {"random masks": 0.125, "matrix products": 0.25},
                "before": {"images read and checked": 0.2},
            },
            "An epoch takes 0.5000 s; of its parts alone, matrix products take the "
            "most, 0.2500 s.",
        ),
    ],
)
def test_the_headline_says_what_came_out(name, summary, headline):
    numbers = page_numbers.numbers(name, summary)
    assert numbers.headline == headline
    assert all(len(row) == len(t.columns) for t in numbers.tables for row in t.rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.85278, "0.8528"),
        (1.5, "1.500"),
        (3.0, "3"),
        (0.0, "0"),
        (63249.1, "63,249"),
        (-0.25, "\N{MINUS SIGN}0.2500"),
        (2.04e-16, f"2.0{page_tables.TIMES}10⁻¹⁶"),
        (272384, "272,384"),
        (True, "yes"),
        (float("nan"), "nan"),
        ("words", "words"),
    ],
)
def test_values_are_written_so_that_they_can_be_read(value, text):
    assert page_tables.shown(value) == text


def modules_of(name):
    """Return the files of `experiments` that an experiment imports, itself included."""
    folder, others, found = ROOT / "experiments", set(RUN) - {name}, {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = folder / f"{module.replace('.', '/')}.py"
        if module in found or module in others or not path.exists():
            continue
        found[module] = path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".", 1)
                if parts[0] == "experiments":
                    rest = parts[1:]
                    names = [".".join([*rest, alias.name]) for alias in node.names]
                    waiting += rest + names
    return found.values()


def figures_of(name):
    """Return the names of PNG files that stand in the code of an experiment."""
    constants = {
        node.value
        for path in modules_of(name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in constants if re.fullmatch(r"[\w-]+\.png", text)}


@pytest.mark.parametrize("name", RUN)
def test_every_figure_that_an_experiment_draws_has_its_words(name):
    assert set(page_figures.FIGURES.get(name, ())) == figures_of(name)


@pytest.mark.parametrize("name", report.QUICK)
def test_the_flags_of_a_quick_run_are_flags_of_the_experiment(name):
    assert {name} | report.TOO_LONG <= set(RUN)
    config_type = importlib.import_module(f"experiments.{name}").Config
    assert cli.parse(config_type, report.QUICK[name])


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--runs", "nowhere"], "--runs must be folders, got nowhere"),
        (["--runs", ".", "--quick"], "--quick must not be given with --runs"),
    ],
)
def test_a_wrong_flag_is_refused(args, line):
    with pytest.raises(UsageError, match=line):
        cli.parse(report.Config, args)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Let a shell script stand for Python, and two names for the experiments."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        'for out; do :; done\nmkdir "$out"\necho "$@" > "$out/args"\n'
        'case $2 in *bad) echo first >&2; echo "error: no" >&2; exit 1;; esac\n'
        "case $2 in *slow) sleep 60;; esac\n"
        """echo '{"experiment": "good", "answer": 42}' > "$out/summary.json"\n"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return lambda *names: monkeypatch.setattr(
        report, "experiments", lambda: {name: f"On {name}." for name in names}
    )


@pytest.mark.parametrize("quick", [False, True])
def test_each_experiment_is_run_and_a_failure_is_shown_and_told(
    stand_in, tmp_path, capsys, quick
):
    stand_in("good", "bad", "storage", "compare")
    config = report.Config(out=tmp_path / "report", seed=5, quick=quick)
    assert report.run(config) == 1
    text = " ".join(Reader((config.out / "index.html").read_text()).text.split())
    assert "Failed: exit code 1: error: no" in text
    assert "answer 42" in text
    command = "experiments.storage" + " --flips 20 --kills 1" * quick + " --seed 5"
    assert command in text
    assert command in capsys.readouterr().out
    (args,) = config.out.glob("runs/*/storage/args")
    assert args.read_text().startswith(f"-m {command} --out ")
    assert ("Not run: --quick leaves it out" in text) == quick


def test_when_nothing_fails_the_exit_code_is_0(stand_in, tmp_path):
    stand_in("good")
    assert report.run(report.Config(out=tmp_path / "report")) == 0


def test_an_interrupt_ends_the_runs_that_are_under_way(stand_in, tmp_path, monkeypatch):
    stand_in("slow")
    started = []
    start = report.start
    monkeypatch.setattr(
        report, "start", lambda *args: started.append(start(*args)) or started[0]
    )

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.run(report.Config(out=tmp_path / "report"))
    assert started[0].process.returncode == -15
    assert not (tmp_path / "report" / "index.html").exists()


@pytest.mark.long
def test_the_real_experiments_make_a_quick_report_with_a_headline_each(tmp_path):
    config = report.Config(out=tmp_path, quick=True, platform="cpu")
    assert report.run(config) == 0
    runs = page_runs.newest([tmp_path])
    assert set(runs) == set(RUN) - report.TOO_LONG
    for name, folder in runs.items():
        summary = json.loads((folder / "summary.json").read_text())
        assert page_numbers.numbers(name, summary).headline


@pytest.fixture(scope="module")
def browser(tmp_path_factory, html):
    """Chromium without a window, the page opened from a file."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("there is no chromium with its chromedriver")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(html)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-quic"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("disable-dev-shm-usage", f"user-data-dir={folder / 'profile'}"),
    ):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(executable_path=driver)
    chrome = webdriver.Chrome(options=options, service=service)
    chrome.address = (folder / "index.html").as_uri()
    yield chrome
    chrome.quit()


def show(browser, width, scheme):
    """Load the page as wide as this, for eyes used to light or dark."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1}
    size["mobile"] = width < 600
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(browser.address)


def test_in_a_browser_it_fits_every_width_and_both_colour_schemes(browser):
    backgrounds = {}
    for scheme in ("light", "dark"):
        for width in (360, 800, 1400):
            show(browser, width, scheme)
            wide, images, background = browser.execute_script(
                """
                const page = document.documentElement;
                return [
                  page.scrollWidth - page.clientWidth,
                  [...document.images].map(image => image.naturalWidth),
                  getComputedStyle(document.body).backgroundColor,
                ]"""
            )
            assert wide <= 0, (scheme, width)
            assert images == [1360] * 3
            backgrounds[scheme] = background
    assert backgrounds["light"] != backgrounds["dark"]
    assert browser.get_log("browser") == []


def test_in_a_browser_the_keyboard_leads_to_all_of_it(browser):
    from selenium.webdriver import ActionChains, Keys

    show(browser, 360, "light")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    skip = browser.switch_to.active_element
    assert skip.get_attribute("class") == "skip"
    top, outline = browser.execute_script(
        "const s = arguments[0]; return [s.getBoundingClientRect().top,"
        " getComputedStyle(s).outlineStyle]",
        skip,
    )
    assert top >= 0
    assert outline == "solid"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    reachable = browser.execute_script(
        """
        return [...document.querySelectorAll('.scroll')].every(
          part => part.tabIndex === 0 && part.getAttribute('aria-labelledby'))"""
    )
    assert reachable
