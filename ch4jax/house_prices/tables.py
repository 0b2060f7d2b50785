"""The house-price tables: where they come from, checked cell by cell.

They are those of De Cock (2011) as Kaggle's competition "House Prices: Advanced
Regression Techniques" cuts them: 1,460 sales with prices and 1,459 without.
"""

import codecs
import csv
import io
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

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
    is_number = _columns()
    if not with_prices:
        is_number = {c: kind for c, kind in is_number.items() if c != "SalePrice"}
    cells = _read_cells(content, list(is_number), name)
    table = pd.DataFrame(
        {
            column: _numbers(values, column, name)
            if is_number[column]
            else _words(values, column, name)
            for column, values in cells.items()
        }
    )
    ids = table["Id"].to_numpy()
    if len(rows := np.flatnonzero(~(ids == np.floor(ids)))):
        raise DataError(
            f"{name} has {cells['Id'][rows[0]]!r} for Id in row {rows[0] + 1}, "
            "expected a whole number"
        )
    if len(doubled := ids[table["Id"].duplicated()]):
        raise DataError(f"{name} has the Id {doubled[0]} twice")
    if with_prices and len(rows := np.flatnonzero(~(table["SalePrice"] > 0))):
        raise DataError(
            f"{name} has {cells['SalePrice'][rows[0]]!r} for SalePrice in row "
            f"{rows[0] + 1}, expected a positive price"
        )
    return table


@cache
def _columns() -> dict[str, bool]:
    """Return, for each column of the shipped table, whether it holds numbers."""
    path = SHIPPED_FOLDER / "train.csv.xz"
    table = pd.read_csv(path, keep_default_na=False, na_values=list(MISSING))
    numbers = table.select_dtypes("number").columns
    return {column: column in numbers for column in table.columns}


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
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_cells(
    content: bytes, columns: Sequence[str], name: str
) -> dict[str, tuple[str, ...]]:
    """Return the cells of each of `columns`, in that order, from a CSV file in UTF-8.

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
        header, *rows = [[cell.strip() for cell in row] for row in reader if row] or [
            []
        ]
    except csv.Error as error:
        raise DataError(
            f"{name} is not a table in CSV: {error} in line {reader.line_num}"
        ) from error
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
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {column: cells[column] for column in columns}


def _numbers(cells: Sequence[str], column: str, name: str) -> pd.Series:
    """Return whole numbers where all are whole, and NaN where a cell is missing."""
    given = ~pd.Series(cells).isin(MISSING)
    numbers: Any = pd.to_numeric(pd.Series(cells).where(given), errors="coerce")
    if len(rows := np.flatnonzero(given & ~(numbers.astype(float).abs() < LARGEST))):
        raise DataError(
            f"{name} has {cells[rows[0]][:40]!r} for {column} in row {rows[0] + 1}, "
            f"expected a finite number below {LARGEST:g}"
        )
    whole = numbers.astype(float) % 1 == 0
    return numbers.astype(int) if whole.all() else numbers


def _words(cells: Sequence[str], column: str, name: str) -> pd.Series:
    """Return the words of a column, None where one is missing."""
    scale = ORDINAL.get(column)
    for row, cell in enumerate(cells, start=1):
        if cell in MISSING or (cell in scale if scale else not _is_number(cell)):
            continue
        expected = f"one of {', '.join(scale)}, or NA" if scale else "a word or NA"
        raise DataError(
            f"{name} has {cell[:40]!r} for {column} in row {row}, expected {expected}"
        )
    return pd.Series([None if v in MISSING else v for v in cells], dtype=object)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
