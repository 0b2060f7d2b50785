"""What a command prints: lines, tables and progress."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Of several processes only the first prints: `cli` sets `quiet` in the others.
on_terminal = sys.stdout is not None and sys.stdout.isatty()
console = Console(highlight=False, width=None if on_terminal else 100)

# On two cores, without flags, programs cached.
TIMES = {
    "aot": "4 min",
    "weight_decay": "5 s",
    "dropout": "50 s",
    "backprop": "15 s",
    "initialization": "4 min",
    "house_prices": "10 s",
    "blocks": "5 s",
    "parameters": "5 s",
    "layers": "5 s",
    "storage": "20 s",
    "benchmark": "6 min",
    "book": "2 min",
    "claims": "4 min",
    "compare": "8 min",
    "end_to_end": "5 min",
    "growth": "1 min",
    "report": "35 min",
    "search": "1 min",
    "time_to_accuracy": "5 min",
}


def say(text: str = "") -> None:
    """Print a line, or several; a terminal breaks them between words."""
    if console.is_terminal:
        lines = textwrap.TextWrapper(
            console.width, break_long_words=False, break_on_hyphens=False
        )
        wrapped = []
        for line in text.split("\n"):
            lines.subsequent_indent = "    " * line.startswith("  ")
            wrapped.append(lines.fill(line))
        text = "\n".join(wrapped)
    console.print(text, markup=False, soft_wrap=True)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    *,
    num_texts: int = 1,
) -> None:
    """Print a table: the first columns, `num_texts` of them, are words."""
    printed = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False
    )
    cells = [max((len(row[i]) for row in rows), default=0) for i in range(len(columns))]
    whole = [max(map(len, head.split()), default=0) for head in columns]
    widths = cells
    for most in range(console.width, 0, -1):  # the heads break, if it is too wide
        heads = (min(len(head), most) for head in columns)
        widths = [max(width) for width in zip(cells, whole, heads, strict=True)]
        if sum(widths) + 2 * len(widths) - 2 <= console.width:
            break
    for i, head in enumerate(columns):
        kept = widths[i] if i and cells[i] < 20 else None  # words break at last
        side = "left" if i < num_texts else "right"
        printed.add_column(head, justify=side, width=kept, overflow="fold")
    for row in rows:
        printed.add_row(*row)
    if title:
        console.print(f"\n{title}", style="bold", markup=False)
    console.print(printed)


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator["Step"]:
    """Count from `done` to `total` steps: a bar on a terminal, lines elsewhere.

    Yields:
      A function to call after each step; see `Step`.
    """
    if not console.is_terminal:
        reached = done

        def line(text: str, steps: int = 1) -> None:
            nonlocal reached
            reached += steps
            say(f"{label} {reached}/{total}: {text}")

        yield line
        return
    # Bar, time and gaps take 21, two numbers with their names about 30.
    beside = console.width - 21 - len(f"{total}/{total}")
    if len(label) + 30 > beside:
        say(label)
        label = ""
    beside -= len(label)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, words="compiling")

        def advance(text: str, steps: int = 1) -> None:
            words = textwrap.shorten(text, max(1, beside), placeholder=" …")
            bar.update(task, advance=steps, words=words)

        yield advance


class Step(Protocol):
    """Called after some steps, with words to print or to show beside the bar."""

    def __call__(self, text: str, steps: int = 1) -> None:
        """Print a line, or move the bar."""
        ...


def count(number: int, thing: str) -> str:
    """Return `1 seed`, `5 seeds`.

    >>> count(1, "seed"), count(5_000, "seed")
    ('1 seed', '5,000 seeds')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
