"""What the tests of several rooms use."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest


def relative_difference(a, b) -> float:
    """Return ||a - b|| / ||b||."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


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
