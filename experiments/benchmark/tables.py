"""The tables of `experiments.benchmark`: each row beside the floor and PyTorch."""

from typing import Any

from experiments.common.console import Report

FLOOR = "matrix products alone"
REFERENCE = {
    "dropout MLP": "PyTorch, eager, in memory",
    "weight decay sweep": "PyTorch, one by one, SGD",
    "house prices": "PyTorch, fold by fold",
}
COLUMNS = (
    *("", "compile", "median", "spread (s)"),
    *("rate", "x floor", "x PyTorch", "MB"),
)


def row(work: Any, timing: Any) -> dict[str, Any]:
    """Return what is kept of a row."""
    return {
        "system": work.system,
        "name": work.name,
        "compile": work.compile,
        **timing._asdict(),
        "throughput": work.amount / timing.median,
        "unit": f"{work.unit}/s",
        "peak_memory_mb": work.memory(),
    }


def relate(rows: list[dict[str, Any]]) -> None:
    """Add to each row its time over that of the floor, and its speed over PyTorch's."""
    rate = {(r["system"], r["name"]): r["throughput"] for r in rows}
    for r in rows:
        floor = rate.get((r["system"], FLOOR))
        eager = rate.get((r["system"], REFERENCE[r["system"]]))
        r["to_floor"] = floor and floor / r["throughput"]
        r["to_pytorch"] = eager and r["throughput"] / eager


def short(value: float | None) -> str:
    """Return `-`, `0.0219`, `37.2` or `1,030`."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def cells(r: dict[str, Any]) -> list[str]:
    """Return a row as text."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else f"{value:{form}}"

    return [
        r["name"],
        number(r["compile"], ".2f"),
        f"{r['median']:.3f}",
        f"{r['fastest']:.3f}-{r['slowest']:.3f}",
        f"{r['throughput']:,.0f}",
        number(r["to_floor"], ".2f"),
        short(r["to_pytorch"]),
        short(r["peak_memory_mb"]),
    ]


def by_system(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each system."""
    names = dict.fromkeys(r["system"] for r in rows)
    return {name: [r for r in rows if r["system"] == name] for name in names}


def show(rows: list[dict[str, Any]], report: Report) -> None:
    """Print a table for each system."""
    for system, group in by_system(rows).items():
        title = f"{system}, {group[-1]['unit']}"
        report.table(COLUMNS, [cells(r) for r in group], title=title)
    report.say(
        "compile, median, spread: seconds; x floor: time, x PyTorch: speed, each for "
        "the same amount of work; MB: arrays at their most; benchmark.json has more"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the tables for a README."""
    lines = []
    for system, group in by_system(rows).items():
        lines += [f"### {system}", "", f"| {' | '.join(COLUMNS)} |"]
        lines += ["|" + " --- |" * len(COLUMNS)]
        lines += [f"| {' | '.join(cells(r))} |" for r in group] + [""]
    return "\n".join(lines)
