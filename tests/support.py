"""What the tests of several modules use."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax import training
from ch4jax.dropout import mlp


@contextmanager
def one_line(kind, match: str) -> Iterator:
    """Expect an error, or one of several kinds, that says this and is one line."""
    with pytest.raises(kind, match=match) as error:
        yield error
    assert "\n" not in str(error.value)


def read(folder, name: str = "summary"):
    """Return what a run has written as JSON."""
    return json.loads((folder / f"{name}.json").read_text())


def rows(folder) -> list[dict]:
    """Return the metrics of a run."""
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def result_of(command, config):
    """Run a command and return its summary."""
    command.run(config)
    return read(config.out)


def command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "no", **environment},
    )


def everything_in(folder) -> dict:
    """Return the bytes of each file, by path; folders and FIFOs have none."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of files by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def metrics_fn(params, x, labels, *, key):
    """Metrics of a perceptron of which half of the hidden units are dropped."""
    logits = mlp(params, x, (0.5,) * (len(params) - 1), key=key)
    return training.classification_metrics(logits, labels)


def two_classes():
    """Return 50 rows, of which the last batch of 16 has two, and their labels."""
    x = jax.random.normal(jax.random.key(0), (50, 4))
    return x, (x[:, 0] > 0).astype(jnp.int32)


def relative_difference(a, b) -> float:
    """Return ||a - b|| / ||b||."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def leaves(*trees) -> Iterator[tuple]:
    """Return the leaves of the trees, side by side."""
    return zip(*map(jax.tree.leaves, trees), strict=True)


def largest_difference(pairs: Iterable[tuple]) -> float:
    """Return the largest relative difference over pairs of parameters."""
    return max(relative_difference(a, b) for a, b in pairs)


@contextmanager
def chromium() -> Iterator:
    """A browser without a window; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("there is no chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome


def show(browser, address: str, width: int, scheme: str) -> None:
    """Load a page as wide as this, for eyes used to light or dark."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)
