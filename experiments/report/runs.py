"""Runs for the page of `report`: found, read, and how to repeat them."""

import dataclasses
import importlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Where a run was kept is not what it did.
NO_MATTER = {"out", "resume", "save_every"}


class Entry(NamedTuple):
    """An experiment on the page.

    Attributes:
      name: of its module.
      sentence: what it is about.
      command: what repeats the run.
      folder: of the run; None if there is no finished one.
      seconds: that it took; None if nobody knows.
      reason: why there is no run, or how it failed.
      failed: whether it was tried.
    """

    name: str
    sentence: str
    command: str
    folder: Path | None = None
    seconds: float | None = None
    reason: str = ""
    failed: bool = False


def entries(roots: Sequence[Path], sentences: Mapping[str, str]) -> list[Entry]:
    """Return what there is below `roots` for each experiment, or that there is nothing.

    Args:
      roots: folders, searched for run folders.
      sentences: the name of each experiment, and what it is about.
    """
    folders = newest(roots)
    places = ", ".join(map(str, roots))
    found = []
    for name in dict.fromkeys([*sentences, *folders]):
        command = ["python", "-m", f"experiments.{name}"]
        if name not in folders:
            reason = f"no run of it was found in {places}"
            entry = Entry(name, sentences[name], shlex.join(command), reason=reason)
        else:
            folder = folders[name]
            if name in sentences:
                command += flags(name, read(folder / "config.json"))
            sentence = sentences.get(name, "An experiment that is no longer here.")
            seconds = _seconds(read(folder / "summary.json"))
            entry = Entry(name, sentence, shlex.join(command), folder, seconds)
        found.append(entry)
    return found


def newest(roots: Iterable[Path]) -> dict[str, Path]:
    """Return the newest run folder of each experiment, wherever below `roots` it is."""
    files = (file for root in roots for file in root.rglob("summary.json"))
    found = {}
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        experiment = read(file).get("experiment")
        if isinstance(experiment, str):
            found[experiment] = file.parent
        else:
            print(f"warning: {file} is not the summary of a run", file=sys.stderr)
    return found


def flags(name: str, config: Mapping[str, Any]) -> list[str]:
    """Return the flags that repeat a run, in a run folder of its own.

    Args:
      name: of the experiment.
      config: its flags; those that have their default do not show.
    """
    config_type = importlib.import_module(f"experiments.{name}").Config
    given: list[str] = []
    for field in dataclasses.fields(config_type):
        value, default = config.get(field.name), field.default
        default = list(default) if isinstance(default, tuple) else default
        if field.name in NO_MATTER or value in (None, default):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = [str(v) for v in (value if isinstance(value, list) else [value])]
        if "Positional" in str(field.type):
            given = [*values, *given]
        else:
            given += [f"--{flag}", *values]
    return given


def read(path: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one where there is none to be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(summary: Mapping[str, Any]) -> float | None:
    seconds = summary.get("seconds")
    if isinstance(seconds, dict):
        seconds = seconds.get("total")
    return seconds if isinstance(seconds, float | int) else None
