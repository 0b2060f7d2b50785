"""The house-price tables: where they come from, checked cell by cell.

They are those of De Cock (2011) as Kaggle's competition "House Prices: Advanced
Regression Techniques" cuts them: 1,460 sales with prices and 1,459 without.
"""

import codecs
import csv
import io
import lzma
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ch4jax.data import hub
from ch4jax.data.files import open_file
from ch4jax.errors import DataError
from ch4jax.house_prices.features import ORDINAL
from ch4jax.storage import atomic

SHIPPED_FOLDER = Path(__file__).parent.parent / "data" / "samples" / "house_prices"
KAGGLE_FOLDERS = (
    Path("/kaggle/input/house-prices-advanced-regression-techniques"),
    Path("/kaggle/input/competitions/house-prices-advanced-regression-techniques"),
)
MAX_BYTES = 2**26  # of a table; Kaggle's have half a million
LARGEST = 1e12  # the square of a number in a cell must not overflow float32
MISSING = ("", "NA")  # and not "None", which is a kind of masonry veneer


class HousePrices(NamedTuple):
    """Sales with their prices, and sales to predict.

    Attributes:
      train: `Id`, 79 features and `SalePrice` in dollars.
      test: `Id` and the features.
      source: where the tables come from.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    source: str


def read(source: str = "auto") -> HousePrices:
    """Read both tables and check every cell.

    Args:
      source: `shipped` is the tables of this package; `auto` is those in Kaggle's
        input folder on Kaggle's machines, and the shipped ones anywhere else; `hub`
        downloads them with `ch4jax.data.hub`; anything else is a folder or zip that
        holds `train.csv` and `test.csv`, as Kaggle hands them out.

    Raises:
      DataError: if a table is not what it should be; names the place in it.
      NetworkError: for `hub`, if a download fails.
      ValueError: if `source` is a URL, is empty, or starts with the `~` of nobody.
    """
    if source == "auto":
        found = [folder for folder in KAGGLE_FOLDERS if folder.is_dir()]
        source = str(found[0]) if found else "shipped"
    if source == "shipped":
        paths = [SHIPPED_FOLDER / f"{name}.csv.xz" for name in ("train", "test")]
        contents = {path: lzma.decompress(path.read_bytes()) for path in paths}
    elif source == "hub":
        paths = [hub.download(f"kaggle_house_{name}") for name in ("train", "test")]
        contents = {path: path.read_bytes() for path in paths}
    else:
        place = atomic.resolve(source)
        paths = [place / "train.csv", place / "test.csv"]
        contents = {path: _read_kaggle(path) for path in paths}
    (train, content), (test, test_content) = contents.items()
    return HousePrices(
        read_table(content, str(train), with_prices=True),
        read_table(test_content, str(test), with_prices=False),
        source,
    )


def read_table(content: bytes, name: str, *, with_prices: bool) -> pd.DataFrame:
    """Read one table from the bytes of its CSV file.

    Its columns may be in any order; they come back in that of the shipped table.

    Raises:
      DataError: begins with `name` and says what is wrong, and where.
    """
    readers = dict(_readers())
    if not with_prices:
        del readers["SalePrice"]
    cells = _read_cells(content, list(readers), name)
    table = pd.DataFrame({c: readers[c](cells[c], name) for c in readers})
    ids = table["Id"].to_numpy()
    _expect("a whole number", ids == np.floor(ids), cells["Id"], name)
    if len(doubled := ids[table["Id"].duplicated()]):
        raise DataError(f"{name} has the Id {doubled[0]} twice")
    if with_prices:
        _expect("a positive price", table["SalePrice"] > 0, cells["SalePrice"], name)
    return table


@cache
def _readers() -> dict[str, Callable[[pd.Series, str], pd.Series]]:
    """Return the function for each column of the shipped table: numbers, or words."""
    path = SHIPPED_FOLDER / "train.csv.xz"
    table = pd.read_csv(path, keep_default_na=False, na_values=list(MISSING))
    numbers = table.select_dtypes("number").columns
    return {c: _numbers if c in numbers else _words for c in table.columns}


def _read_kaggle(path: Path) -> bytes:
    """Return the bytes of a file in a folder or in a zip."""
    try:
        if path.parent.is_file() and zipfile.is_zipfile(path.parent):
            with zipfile.ZipFile(path.parent) as zipped:
                size = zipped.getinfo(path.name).file_size
                if size > MAX_BYTES:
                    raise DataError(f"{path} has {size:,} bytes, at most {MAX_BYTES:,}")
                return zipped.read(path.name)
        with open_file(path, MAX_BYTES) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, KeyError) as error:
        raise DataError(
            f"{path} is not there; expected a folder or zip with train.csv and test.csv"
        ) from error
    except (OSError, zipfile.BadZipFile, *hub.UNSOUND) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_cells(
    content: bytes, columns: Sequence[str], name: str
) -> dict[str, pd.Series]:
    """Return the text in each of `columns`, in that order, from a CSV file in UTF-8.

    UTF-16 with a byte-order mark, such a mark in UTF-8, any kind of line end, blank
    lines and blanks around a cell are fine.
    """
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} is not UTF-8: {error.reason} in line {line}"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        stripped = [[cell.strip() for cell in row] for row in reader if row]
    except csv.Error as error:
        raise DataError(
            f"{name} is not a table in CSV: {error} in line {reader.line_num}"
        ) from error
    header, *rows = stripped or [[]]
    if len(header) == 1:
        raise DataError(f"{name} has no commas, but starts with {header[0][:40]!r}")
    times = Counter(header)
    for fault, wrong in (
        ("lacks the column", [c for c in columns if c not in times]),
        ("has the unknown column", [c for c in times if c not in columns]),
        ("has twice the column", [c for c in times if times[c] > 1]),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DataError(f"{name} {fault} {wrong[0][:40]!r}{more}")
    if not rows:
        raise DataError(f"{name} has a header and no rows")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(
                f"{name} has {len(row)} cells in row {number}, expected {len(header)}"
            )
    texts = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {c: pd.Series(texts[c], name=c, dtype=object) for c in columns}


def _numbers(cells: pd.Series, name: str) -> pd.Series:
    """Return whole numbers where all are whole, and NaN where a cell is missing."""
    missing = cells.isin(MISSING)
    numbers: Any = pd.to_numeric(cells.mask(missing), errors="coerce")
    sound = missing | (numbers.astype(float).abs() < LARGEST)
    _expect(f"a finite number below {LARGEST:g}", sound, cells, name)
    whole = numbers.astype(float) % 1 == 0
    return numbers.astype(int) if whole.all() else numbers


def _words(cells: pd.Series, name: str) -> pd.Series:
    """Return the words of a column, None where one is missing."""
    if scale := ORDINAL.get(str(cells.name)):
        expected = f"one of {', '.join(scale)}, or NA"
        sound = [cell in (*MISSING, *scale) for cell in cells]
    else:
        expected = "a word or NA"
        sound = [cell in MISSING or not _is_number(cell) for cell in cells]
    _expect(expected, sound, cells, name)
    return pd.Series([None if v in MISSING else v for v in cells], dtype=object)


def _expect(what: str, sound: ArrayLike, cells: pd.Series, name: str) -> None:
    """Raise DataError about the first cell of a column that is not sound."""
    if len(rows := np.flatnonzero(~np.asarray(sound))):
        raise DataError(
            f"{name} has {cells[rows[0]][:40]!r} for {cells.name} in row "
            f"{rows[0] + 1}, expected {what}"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
