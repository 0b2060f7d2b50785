"""List the experiments; nothing is imported for it."""

import ast
import pkgutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

NOT_EXPERIMENTS = {"__main__", "cli", "errors", "fit", "plots", "report"}


def experiments() -> dict[str, str]:
    """Return the first line of the docstring of each experiment, by name."""
    folder = Path(__file__).parent
    names = [module.name for module in pkgutil.iter_modules([str(folder)])]
    lines = {}
    for name in sorted(set(names) - NOT_EXPERIMENTS):
        docstring = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text()))
        lines[name] = (docstring or "").partition("\n")[0]
    return lines


def main() -> None:
    """Print a command and a sentence for each experiment."""
    table = Table("command", "what it shows", box=None, header_style="bold")
    for name, line in experiments().items():
        table.add_row(f"python -m experiments.{name}", line)
    console = Console()
    console.print(table)
    console.print("\nEach has --help; without flags it does the book's run.")


if __name__ == "__main__":
    main()
