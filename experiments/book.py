"""The book as a site: chapters in English and Chinese, guides, and the reference.

Without flags: into site/, whose index.html any browser opens, without a network. Cells
that did not change since the last build, and whose packages did not, are not run again.
It needs the `book` extra.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; seed, platform and precision are the chapters' own."""

    out: cli.FlagPath = Path("site")
    """Folder of the site: new, or of an earlier build."""


def run(config: Config) -> int:
    """Build both languages; warnings are errors.

    Raises:
      UsageError: if a package is missing, or the folder holds something else.
      Failed: if a build fails.
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
        source = Path(folder)
        stage(source)
        for language, place in LANGUAGES.items():
            build(source, out / place, language, kept)
    say(f"{out / 'index.html'}: open it in a browser")
    return 0


def fingerprint() -> str:
    """Return a hash of what the chapters import: our code, and versions."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "ch4jax").rglob("*.py")):
        digest.update(path.read_bytes())
    versions = [importlib.metadata.version(name) for name in RAN_WITH]
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()[:16]


def stage(source: Path) -> None:
    """Put chapters and guides beside each other."""
    shutil.copytree(ROOT / "book", source, dirs_exist_ok=True)
    for name in GUIDES:
        (source / "guides").mkdir(exist_ok=True)
        shutil.copy(ROOT / "docs" / f"{name}.md", source / "guides")
    shutil.copytree(ROOT / "docs" / "figures", source / "guides" / "figures")


def build(source: Path, out: Path, language: str, kept: Path) -> None:
    """Build the site in a language."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    command += ["-D", f"language={language}"]
    command += ["-d", str(source / "doctrees" / language), str(source), str(out)]
    environment = os.environ | {
        "CH4JAX_BOOK_CACHE": str(kept),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
    }
    if code := subprocess.run(command, env=environment).returncode:
        raise Failed(f"sphinx, language {language}: exit code {code}")


def main() -> None:
    """Run from the command line; the chapters have the devices."""
    sys.exit(cli.exit_code(lambda: run(cli.parse(Config))))


if __name__ == "__main__":
    main()
