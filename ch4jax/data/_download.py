"""A download over HTTP that says what it fetches, and ends."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import urllib3

LOG = logging.getLogger("ch4jax")
DEADLINE = 600.0  # seconds for one file, whatever the server sends in between


def fetch(
    url: str, path: str | Path, _: object = None, *, folder: Path, seconds: float
) -> None:
    """Write what `url` serves to `path`, and log a line about it.

    `pooch.retrieve` takes it as a downloader; it passes itself as the third argument.

    Args:
      url: of the file.
      path: where the bytes go, for the caller to check and rename.
      folder: where the file will be, for the line.
      seconds: how long the server may be silent.

    Raises:
      requests.RequestException: if the download fails or takes longer than `DEADLINE`.
      OSError: if `path` cannot be written.
    """
    import requests

    start = time.monotonic()
    try:
        response = requests.get(url, stream=True, timeout=seconds)
    except (OSError, ValueError) as error:  # of proxies and certificates too
        raise requests.RequestException(str(error)) from error
    with response:
        response.raise_for_status()
        size = response.headers.get("Content-Length", "")
        how_large = f"{int(size):,} bytes" if size.isdigit() else "of unknown size"
        LOG.info("downloading %s, %s, into %s", url, how_large, folder)
        with open(path, "wb") as file:
            while chunk := _read(response.raw):
                file.write(chunk)
                if time.monotonic() - start > DEADLINE:
                    raise requests.Timeout(f"it takes longer than {DEADLINE:.0f} s")


def _read(raw: "urllib3.BaseHTTPResponse") -> bytes:
    import requests
    import urllib3

    try:  # what is there: `iter_content` would wait until a trickle fills a chunk
        return raw.read1(1 << 16, decode_content=True)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(str(error)) from error
