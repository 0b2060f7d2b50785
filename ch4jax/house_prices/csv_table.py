"""Tables in CSV, checked down to the cell; columns come back as lists of strings."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from ch4jax.errors import DataError


def read(content: bytes, columns: Sequence[str], name: str) -> dict[str, list[str]]:
    """Read a table that has to have exactly these columns, in any order.

    A byte-order mark, either kind of line end and blank lines are put up with.

    Args:
      content: the bytes of the file, in UTF-8.
      columns: their names.
      name: of the file; every message begins with it.

    Returns:
      The cells of each column, in the order of `columns`.

    Raises:
      DataError: if the table is anything else; says what is wrong, and where.
    """
    if (at := content.find(b"\0")) >= 0:
        raise DataError(f"{name} holds a NUL byte in line {_line(content, at)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line(content, error.start)
        raise DataError(f"{name} is not UTF-8: {error.reason} in line {line}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise DataError(
            f"{name} is not a table in CSV: {error} in line {reader.line_num}"
        ) from None
    _check_header(header, columns, name)
    if not rows:
        raise DataError(f"{name} has a header and no rows")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(
                f"{name} has {len(row)} cells in row {number}, expected {len(header)}"
            )
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {column: list(cells[column]) for column in columns}


def _check_header(header: list[str], columns: Sequence[str], name: str) -> None:
    if not header:
        raise DataError(f"{name} is empty, expected a table of {len(columns)} columns")
    times = Counter(header)
    for fault, wrong in (
        ("lacks the column", [c for c in columns if c not in times]),
        ("has the unknown column", [c for c in times if c not in columns]),
        ("has twice the column", [c for c, n in times.items() if n > 1]),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DataError(f"{name} {fault} {wrong[0][:40]!r}{more}")


def _line(content: bytes, at: int) -> int:
    return content.count(b"\n", 0, at) + 1
