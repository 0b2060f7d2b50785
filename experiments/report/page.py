"""The page of `report`: runs in, one HTML file out, which needs no other."""

import base64
import contextlib
import struct
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from ch4jax.data.files import open_file, read_object

DATA = {
    "full": "the whole Fashion-MNIST",
    "mini": "the shipped tenth of Fashion-MNIST",
    "shipped": "the shipped tables",
}
PNG = b"\x89PNG\r\n\x1a\n"
OLD = "this run is older than ch4jax 0.2.0 and has no record; run it again"


class Entry(NamedTuple):
    """An experiment on the page.

    Attributes:
      name: of its module.
      command: what repeats the run.
      folder: of the run; None if there is no finished one.
      seconds: that it took; None if unknown.
      sentence: what it is about.
      reason: why there is no run, or how it failed.
      failed: whether it was tried.
    """

    name: str
    command: str
    folder: Path | None = None
    seconds: float | None = None
    sentence: str = ""
    reason: str = ""
    failed: bool = False


class Section(NamedTuple):
    """What the page shows of an entry; `record.json` has the last three."""

    entry: Entry
    title: str
    environment: Mapping[str, Any]
    data: str
    headline: str
    tables: list[Mapping[str, Any]]
    figures: list[Mapping[str, Any]]


def render(entries: Iterable[Entry], command: str) -> str:
    """Return the page.

    Args:
      entries: in the order of the page; those without a run come last.
      command: what makes the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section(e) for e in sorted(entries, key=lambda e: e.folder is None)]
    return environment.get_template("page.html").render(
        sections=sections,
        machines=machines(sections),
        made=datetime.now().astimezone(),
        command=command,
    )


def section(entry: Entry) -> Section:
    """Read what the page shows of an entry."""
    title = entry.name.replace("_", " ").capitalize()
    if entry.folder is None:
        return Section(entry, title, {}, "", "", [], [])
    folder = entry.folder
    record = read_object(folder / "record.json")
    if not record:
        entry = entry._replace(reason=entry.reason or OLD)
    data = str(read_object(folder / "summary.json").get("data") or "")
    return Section(
        entry,
        title,
        read_object(folder / "env.json"),
        DATA.get(data, data),
        record.get("headline", ""),
        record.get("tables", []),
        [
            f | shown | {"narrow": "narrow" in f and picture(folder / f["narrow"])}
            for f in record.get("figures", [])
            if (shown := picture(folder / f["file"]))
        ],
    )


def picture(path: Path) -> dict[str, str | int]:
    """Return a PNG as a data URI, and its size, which is in its first bytes.

    Without a PNG at `path` that is nothing, and a warning.
    """
    content = b""
    with contextlib.suppress(OSError), open_file(path) as file:
        content = file.read()
    if content[:8] != PNG or len(content) < 24:
        warnings.warn(f"the page is without {path}, which is no PNG", stacklevel=2)
        return {}
    width, height = struct.unpack(">II", content[16:24])
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height}


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
    """Return what `env.json` has of machine and versions, in words."""
    if not environment:
        return {}
    devices = environment["devices"]
    processes = environment["processes"]
    packages = {"Python": environment["python"], **environment["packages"]}
    numerics = environment.get("numerics", {})
    described = {
        "Devices": ", ".join(
            f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)
        )
        + f", in {processes} processes" * (processes != 1),
        "Processor": environment["processor"],
        "CPU cores": str(environment["cpu_count"]),
        "System": environment["system"],
        "Versions": ", ".join(f"{name} {v}" for name, v in packages.items()),
        "Matrix products": numerics.get("jax_default_matmul_precision") or "",
        "Variables": " ".join(f"{n}={v}" for n, v in environment["variables"].items()),
    }
    return {name: value for name, value in described.items() if value}
