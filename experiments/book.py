"""The book as a site: chapters in English and Chinese, guides, and the reference.

Without flags: into site/, whose index.html any browser opens, without a network. Cells
that did not change since the last build, and whose packages did not, are not run again.
It needs the `book` extra.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin

from ch4jax.data import cache_folder
from experiments.common import cli
from experiments.common.console import say
from experiments.common.errors import Failed, UsageError
from experiments.common.run_folder import writable

ROOT = Path(__file__).parents[1]
GUIDES = ("your_own_model", "porting", "interop", "storage", "scaling", "using")
NEEDED = ("sphinx", "myst_nb", "torch")
RAN_WITH = ("jax", "flax", "optax", "numpy", "torch", "matplotlib")
LANGUAGES = {"en": ".", "zh_CN": "zh"}
OUTSIDE = ("http:", "https:", "//")
EXPLORED = re.compile(
    r'<figure class="explore" id="(\w+)">.*?<script[^>]*>(.*?)</script>'
)


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; the chapters have their own seed, platform and precision."""

    out: cli.FlagPath = Path("site")
    """Folder of the site: new, or of an earlier build."""


def run(config: Config) -> int:
    """Build both languages; warnings are errors.

    Raises:
      UsageError: if a package is missing, or the folder holds something else.
      Failed: if a build fails, or a page of it has a dead link or lacks a figure.
    """
    if missing := [name for name in NEEDED if not importlib.util.find_spec(name)]:
        raise UsageError(
            f'{", ".join(missing)} is not installed: pip install -e ".[book]"'
        )
    out = config.out
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / ".buildinfo").is_file():
            raise UsageError(f"--out: {out} is not a site of this command")
    kept = cache_folder() / "book" / fingerprint()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"  # chapters and guides beside each other
        guides = source / "guides"
        shutil.copytree(ROOT / "book", source)
        guides.mkdir(exist_ok=True)
        for name in GUIDES:
            shutil.copy(ROOT / "docs" / f"{name}.md", guides)
        for name in ("figures", "results"):
            shutil.copytree(ROOT / "docs" / name, guides / name)
        undrawn = []
        for language, place in LANGUAGES.items():
            built = Path(folder) / language  # MyST-NB writes figures beside it
            build(source, built, language, kept)
            undrawn += missing_figures(source, built)
            shutil.copytree(built, out / place, dirs_exist_ok=True)
    write_data(out)
    if wrong := undrawn + dead_links(out):
        raise Failed("\n".join(wrong))
    say(f"{out / 'index.html'}: open it in a browser")
    return 0


def fingerprint() -> str:
    """Return a hash of what runs the chapters: our code, and versions."""
    digest = hashlib.sha256()
    explore = ROOT / "experiments" / "common" / "explore.py"
    for path in (*sorted((ROOT / "ch4jax").rglob("*.py")), explore, Path(__file__)):
        digest.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in RAN_WITH]
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()[:16]


def build(source: Path, out: Path, language: str, kept: Path) -> None:
    """Build the site in a language."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    command += ["-D", f"language={language}"]
    command += ["-d", str(source / "doctrees" / language), str(source), str(out)]
    environment = os.environ | {
        "CH4JAX_BOOK_CACHE": str(kept),
        # Commands set it to agg, with which cells would show no figure.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
    }
    if code := subprocess.run(command, env=environment).returncode:
        raise Failed(f"sphinx, language {language}: exit code {code}")


def write_data(site: Path) -> None:
    """Write the data of each figure to play with beside its page."""
    for page in site.rglob("*.html"):
        for name, data in EXPLORED.findall(page.read_text(encoding="utf-8")):
            page.with_name(f"{name}.json").write_text(data, encoding="utf-8")


class Page(HTMLParser):
    """What a page links to, what it loads, and where links may lead."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str | None] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(
        self, tag: str, attrs: Sequence[tuple[str, str | None]]
    ) -> None:
        """Note the attributes of a tag."""
        of = dict(attrs)
        self.anchors |= {of.get("id"), of.get("name")}
        target = of.get("href") or of.get("src") or ""
        (self.links if tag == "a" else self.loads).append(target)


def missing_figures(source: Path, site: Path) -> list[str]:
    """Return the chapters whose pages have fewer figures than their cells show."""
    wrong = []
    for chapter in sorted(source.glob("*.md")):
        drawn = chapter.read_text(encoding="utf-8").count("plt.show()")
        page = site / f"{chapter.stem}.html"
        if drawn:
            there = sum("_images/" in target for target in Page(page).loads)
            if there < drawn:
                wrong.append(f"{site.name}/{page.name}: {there} of {drawn} figures")
    return wrong


def dead_links(site: Path) -> list[str]:
    """Return links within a site that lead nowhere, and what it loads from outside."""
    files = [f for f in site.resolve().rglob("*.html") if "_static" not in f.parts]
    pages = {f"file://{file}": Page(file) for file in files}
    wrong = []
    for address, page in pages.items():
        for target in page.links + page.loads:
            if target.startswith((*OUTSIDE, "mailto:", "data:")):
                if target in page.loads and target.startswith(OUTSIDE):
                    wrong.append(f"{address} loads {target}")
                continue
            whole, _, anchor = unquote(urljoin(address, target)).partition("#")
            whole = whole.partition("?")[0]
            known = whole not in pages or anchor in pages[whole].anchors
            exists = Path(whole.removeprefix("file://")).exists()
            if not exists or (anchor and not known):
                wrong.append(f"{address} links to {target}")
    return wrong


if __name__ == "__main__":  # the chapters have the devices
    sys.exit(cli.exit_code(lambda: run(cli.parse(Config))))
