"""The page of `report`: runs in, one HTML file out, which needs no other."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import jinja2

from experiments.report.figures import Figure, figures
from experiments.report.numbers import Numbers, numbers
from experiments.report.runs import Entry, read
from experiments.report.tables import TIMES, shown

FIRST = {"compare": 0, "benchmark": 1}  # what most readers came for
DATA = {
    "full": "the whole Fashion-MNIST",
    "mini": "the shipped tenth of Fashion-MNIST",
    "shipped": "the shipped tables",
}


class Section(NamedTuple):
    """What the page shows of an entry; nothing is known of one without a run."""

    entry: Entry
    title: str
    environment: Mapping[str, Any]
    data: str
    numbers: Numbers
    figures: list[Figure]


def render(entries: Iterable[Entry], remake: str) -> str:
    """Return the page.

    Args:
      entries: in any order; parity and speed come first.
      remake: the command that makes the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    sections = [
        section(entry)
        for entry in sorted(entries, key=lambda e: (FIRST.get(e.name, 2), e.name))
    ]
    return environment.get_template("page.html").render(
        sections=sections,
        machines=machines(sections),
        made=datetime.now().astimezone(),
        remake=remake,
    )


def section(entry: Entry) -> Section:
    """Read what the page shows of an entry."""
    title = entry.name.replace("_", " ").capitalize()
    if entry.folder is None:
        return Section(entry, title, {}, "", Numbers("", []), [])
    summary = read(entry.folder / "summary.json")
    data = str(summary.get("data") or "")
    return Section(
        entry,
        title,
        read(entry.folder / "env.json"),
        DATA.get(data, data),
        numbers(entry.name, summary),
        figures(entry.name, entry.folder),
    )


def machines(sections: Iterable[Section]) -> list[tuple[dict[str, str], str]]:
    """Return what is known of each machine, and the titles of the runs made on it."""
    found: list[tuple[dict[str, str], list[Section]]] = []
    for part in sections:
        if facts := describe(part.environment):
            same = [parts for known, parts in found if known == facts]
            same[0].append(part) if same else found.append((facts, [part]))
    for facts, parts in found:
        used = {
            p.data: ", ".join(q.title for q in parts if q.data == p.data) for p in parts
        }
        if data := [f"{data} ({titles})" for data, titles in used.items() if data]:
            facts["Data"] = "; ".join(data)
    return [(facts, ", ".join(p.title for p in parts)) for facts, parts in found]


def describe(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return what `env.json` says of machine and versions, in words."""
    if not environment:
        return {}
    devices = environment.get("devices") or []
    kinds = dict.fromkeys(devices)
    processes = environment.get("processes") or 1
    packages = {"Python": environment.get("python"), **environment.get("packages", {})}
    variables = environment.get("variables") or {}
    described = {
        "Devices": ", ".join(f"{devices.count(kind)}{TIMES}{kind}" for kind in kinds)
        + f", in {processes} processes" * (processes != 1),
        "Processor": environment.get("processor"),
        "CPU cores": shown(environment.get("cpu_count")),
        "System": shown(environment.get("system")),
        "Versions": ", ".join(f"{name} {shown(v)}" for name, v in packages.items()),
        "Variables": " ".join(f"{name}={value}" for name, value in variables.items()),
    }
    return {name: value for name, value in described.items() if value}
