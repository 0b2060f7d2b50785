"""What a command prints: lines, tables and progress."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

# Of several processes only the first prints: `cli` sets `quiet` in the others.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)


def say(text: str = "") -> None:
    """Print a line, or several."""
    console.print(text, markup=False, soft_wrap=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = ""
) -> None:
    """Print a table: the first column is text, the others are numbers."""
    printed = Table(title=title or None, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        printed.add_column(column, justify="right" if i else "left")
    for row in rows:
        printed.add_row(*row)
    console.print(printed)


@contextmanager
def progress(
    label: str, total: int, *, done: int = 0
) -> Iterator[Callable[[str], None]]:
    """Count from `done` to `total` steps: a bar on a terminal, lines elsewhere.

    Yields:
      A function to call after each step, with a few words about it.
    """
    if not console.is_terminal:
        steps = iter(range(done + 1, total + 1))
        yield lambda text: say(f"{label} {next(steps)}/{total}: {text}")
        return
    columns = (
        TextColumn(label),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda text: bar.update(task, advance=1, description=text)


def count(number: int, thing: str) -> str:
    """Return `1 seed`, `5 seeds`.

    >>> count(1, "seed"), count(5_000, "seed")
    ('1 seed', '5,000 seeds')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
