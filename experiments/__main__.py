"""List the experiments; nothing is imported for it."""

import ast
import pkgutil
from pathlib import Path

from rich.console import Console
from rich.table import Table


def experiments() -> dict[str, str]:
    """Return the first line of the docstring of each module that has a `main`."""
    folder = Path(__file__).parent
    lines = {}
    for module in pkgutil.iter_modules([str(folder)]):
        file = f"{module.name}/__init__.py" if module.ispkg else f"{module.name}.py"
        tree = ast.parse((folder / file).read_text(encoding="utf-8"))
        has_main = any(getattr(node, "name", "") == "main" for node in tree.body)
        if has_main and module.name != "__main__":
            lines[module.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
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
