"""The house-price tables: where they are looked for, checked cell by cell.

They are those of De Cock (2011) as Kaggle's competition "House Prices: Advanced
Regression Techniques" cuts them: 1,460 sales with prices and 1,459 without.
"""

import lzma
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import ch4jax.house_prices.csv_table as csv_table
from ch4jax.data import hub
from ch4jax.errors import DataError

SHIPPED_FOLDER = Path(__file__).parent.parent / "data" / "samples" / "house_prices"
KAGGLE_FOLDERS = (
    Path("/kaggle/input/house-prices-advanced-regression-techniques"),
    Path("/kaggle/input/competitions/house-prices-advanced-regression-techniques"),
)
LARGEST_TABLE = 32 * 1024 * 1024  # bytes; the real ones have half a million
MISSING = ("", "NA")  # and not "None", which is a kind of masonry veneer


class HousePrices(NamedTuple):
    """Sales with their prices, and sales to predict.

    Attributes:
      train: `Id`, 79 features and `SalePrice` in dollars.
      test: `Id` and the features.
      source: where the tables were.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    source: str


def read(source: str = "auto", *, progressbar: Any = False) -> HousePrices:
    """Read both tables and check every cell.

    Args:
      source: `shipped` takes the tables of this package; `auto` takes those in
        Kaggle's input folder on Kaggle's machines, and else the shipped ones; `hub`
        goes through `ch4jax.data.hub`; anything else is a folder or zip that holds
        `train.csv` and `test.csv`, as Kaggle hands them out.
      progressbar: for `hub`, see `hub.download`.

    Raises:
      DataError: if a table is not what it should be; names the place in it.
      NetworkError: for `hub`, if a table has to be fetched and cannot be.
    """
    if source == "auto":
        found = [folder for folder in KAGGLE_FOLDERS if folder.is_dir()]
        source = str(found[0]) if found else "shipped"
    if source == "shipped":
        paths = [SHIPPED_FOLDER / f"{name}.csv.xz" for name in ("train", "test")]
        contents = {str(path): lzma.decompress(path.read_bytes()) for path in paths}
    elif source == "hub":
        paths = [
            hub.download(f"kaggle_house_{name}", progressbar=progressbar)
            for name in ("train", "test")
        ]
        contents = {str(path): path.read_bytes() for path in paths}
    else:
        contents = _read_kaggle(Path(source).expanduser())
    (train, content), (test, test_content) = contents.items()
    return HousePrices(
        read_table(content, train, with_prices=True),
        read_table(test_content, test, with_prices=False),
        source,
    )


def read_table(content: bytes, name: str, *, with_prices: bool) -> pd.DataFrame:
    """Read one table from the bytes of its CSV file.

    Its columns may stand in any order; they come back in that of the shipped table.

    Raises:
      DataError: begins with `name` and says what is wrong, and where.
    """
    is_number = _columns()
    if not with_prices:
        is_number = {c: kind for c, kind in is_number.items() if c != "SalePrice"}
    cells = csv_table.read(content, list(is_number), name)
    table = pd.DataFrame(
        {
            column: _numbers(values, column, name)
            if is_number[column]
            else pd.Series([None if v in MISSING else v for v in values], dtype=object)
            for column, values in cells.items()
        }
    )
    ids = table["Id"].to_numpy()
    if ids.dtype.kind != "i":
        raise DataError(f"{name} has an Id that is missing or no whole number")
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
    """Return whether it holds numbers for each column of the shipped table."""
    path = SHIPPED_FOLDER / "train.csv.xz"
    table = pd.read_csv(path, keep_default_na=False, na_values=list(MISSING))
    numbers = table.select_dtypes("number").columns
    return {column: column in numbers for column in table.columns}


def _numbers(cells: list[str], column: str, name: str) -> pd.Series:
    """Return whole numbers where all are whole, and NaN where a cell is missing."""
    given = ~pd.Series(cells).isin(MISSING)
    numbers: Any = pd.to_numeric(pd.Series(cells).where(given), errors="coerce")
    if len(rows := np.flatnonzero(given & ~np.isfinite(numbers.astype(float)))):
        raise DataError(
            f"{name} has {cells[rows[0]][:40]!r} for {column} in row {rows[0] + 1}, "
            "expected a finite number"
        )
    return numbers


def _read_kaggle(place: Path) -> dict[str, bytes]:
    """Return the bytes of `train.csv` and `test.csv` in a folder or zip, by path."""
    contents = {}
    for path in (place / "train.csv", place / "test.csv"):
        try:
            if place.is_dir():
                with path.open("rb") as file:
                    contents[str(path)] = file.read(LARGEST_TABLE + 1)
            else:
                with zipfile.ZipFile(place) as archive, archive.open(path.name) as file:
                    contents[str(path)] = file.read(LARGEST_TABLE + 1)
        except (KeyError, FileNotFoundError):
            raise DataError(
                f"{path} is not there; expected a folder or zip with train.csv and "
                "test.csv"
            ) from None
        except hub.UNPACKING_ERRORS as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        if len(contents[str(path)]) > LARGEST_TABLE:
            raise DataError(f"{path} has more than {LARGEST_TABLE:,} bytes")
    return contents
