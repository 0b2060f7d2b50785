"""List the experiments; none is imported for it."""

import ast
import pkgutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.common.console import TIMES

# The book's order: sections of the first and Chinese edition, and of the English one.
SECTIONS = {
    "weight_decay": ("4.5", "3.7"),
    "dropout": ("4.6", "5.6"),
    "backprop": ("4.7", "5.3"),
    "initialization": ("4.8", "5.4, 6.3"),
    "house_prices": ("4.10", "5.7"),
    "blocks": ("5.1", "6.1"),
    "parameters": ("5.2", "6.2"),
    "layers": ("5.4", "6.5"),
    "storage": ("5.5", "6.6"),
}


def experiments() -> dict[str, str]:
    """Return the first line of the docstring of each module that has a `Config`.

    In the order of the book, then the commands that it does not have.
    """
    folder = Path(__file__).parent
    lines = {}
    for module in pkgutil.iter_modules([str(folder)]):
        file = f"{module.name}/__init__.py" if module.ispkg else f"{module.name}.py"
        tree = ast.parse((folder / file).read_text(encoding="utf-8"))
        if any(getattr(node, "name", "") == "Config" for node in tree.body):
            lines[module.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return {name: lines[name] for name in [*SECTIONS, *lines]}


def main() -> None:
    """Print a command and a sentence for each experiment."""
    table = Table("1st", "D2L", box=None, header_style="bold")
    table.add_column("NAME", no_wrap=True)
    table.add_column("takes", justify="right", no_wrap=True)
    table.add_column("what it shows")
    for name, line in experiments().items():
        sections = SECTIONS.get(name, ("", ""))
        sentence = line.partition(" (D2L")[0].rstrip(".") + "."
        table.add_row(*sections, name, TIMES.get(name, ""), sentence)
    console = Console()
    console.print(table)
    console.print(
        "\npython -m experiments.NAME does the book's run; each has --help.\n"
        "1st: section of the first and Chinese edition, whose order this is; D2L: of "
        "the English one; takes: on two cores, compiled programs cached."
    )


if __name__ == "__main__":
    main()
