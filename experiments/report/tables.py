"""Tables for the page of `report`, and how a value is written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Fields whose head is not simply their name.
HEADS = {
    "": "",
    "floor_seconds": "of its products",
    "lambd": "lambda",
    "matrix_products": "matrix products",
    "memory_mb": "MB",
    "name": "way",
    "off": "gradient minus sum over copies",
    "peak_memory_mb": "peak MB",
    "ratio": "speed over PyTorch",
    "to_floor": "time over floor",
    "to_pytorch": "speed over PyTorch",
    "what": "compared",
}
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Table(NamedTuple):
    """Some numbers of a run.

    Attributes:
      title: stands above.
      columns: their heads; none where rows speak for themselves.
      rows: a value for each column; None where there is none.
      num_texts: how many columns, from the left, hold words.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    num_texts: int = 1


Summary = Mapping[str, Any]


class Numbers(NamedTuple):
    """What is shown of a summary; the headline is what came out, in a line."""

    headline: str
    tables: list[Table]


def records(
    title: str,
    entries: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    num_texts: int = 1,
) -> Table:
    """Return a row for each entry; a field that it does not have is None."""
    rows = [[entry.get(field) for field in fields] for entry in entries]
    heads = [HEADS.get(field, field.replace("_", " ")) for field in fields]
    return Table(title, heads, rows, num_texts)


def named(
    title: str, entries: Mapping[str, Mapping[str, Any]], fields: Sequence[str]
) -> Table:
    """Return a row for each entry, which begins with its name."""
    rows = [{"": name, **entry} for name, entry in entries.items()]
    return records(title, rows, ["", *fields])


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Return a row for each value, without heads."""
    return Table(title, (), list(values.items()))


def plain(summary: Mapping[str, Any]) -> list[Table]:
    """Return what can be shown of a summary of which nothing is known.

    All single values make a table, and so does each list of entries.
    """
    tables = [facts("Summary", dict(single_values(summary)))]
    for name, entries in summary.items():
        if isinstance(entries, list) and all(isinstance(e, dict) for e in entries):
            flat = [dict(single_values(entry)) for entry in entries]
            fields = list(dict.fromkeys(field for entry in flat for field in entry))
            tables.append(records(name, flat, fields))
    return [table for table in tables if table.rows]


def single_values(tree: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield what is neither list nor dictionary, with its keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from ((f"{key}, {inner}", v) for inner, v in single_values(value))
        elif not isinstance(value, list):
            yield key, value


def shown(value: Any) -> str:
    """Return a value as text: four digits of what is not whole, a dash for None."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _digits(value).replace("-", MINUS)
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    return str(value)


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}{TIMES}10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")
