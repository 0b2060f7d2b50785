"""Two modules of your own, from a file, held to each other by `ch4jax.parity`."""

import inspect
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ch4jax import parity
from ch4jax.parity import Check
from experiments.common import plots
from experiments.common.errors import Failed, UsageError
from experiments.common.run_folder import RunFolder
from experiments.pytorch import template

NAMES = ("ours", "theirs", "inputs", "labels")


def read(path: Path) -> dict:
    """Run the file of a pair, and return what it defines.

    Raises:
      UsageError: if it is no file, lacks a name, or `options` are no arguments.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file; --template {path} writes one")
    found = runpy.run_path(str(path))
    if missing := [name for name in NAMES if name not in found]:
        raise UsageError(f"{path} does not define {', '.join(missing)}")
    try:
        pair = {name: found[name] for name in NAMES} | found.get("options", {})
        inspect.signature(parity.compare).bind(**pair)
    except TypeError as error:
        raise UsageError(
            f"options in {path} must be arguments of ch4jax.parity.compare: {error}"
        ) from error
    return pair


def write_template(path: Path) -> None:
    """Write a pair to start from.

    Raises:
      UsageError: if there is something already.
    """
    text = Path(template.__file__).read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--template {path}: {error.strerror}") from error


def table(checks: Sequence[Check], folder: RunFolder, title: str) -> None:
    """Print one line for each check."""
    folder.table(
        ["level", "what", "dtype", "verdict", "apart", "at most"],
        [
            [
                str(check.level),
                check.what,
                check.dtype,
                "equal" if check.passed else "failed",
                f"{check.difference:.1e}",
                f"{check.allowed:.1e}",
            ]
            for check in checks
        ],
        title,
        num_texts=4,
    )


def show(pair: dict, folder: RunFolder) -> None:
    """Compare the two modules; print the checks, and draw depth and drift.

    Raises:
      Failed: if they differ.
    """
    report = parity.compare(**pair)
    found = report.first or "the modules are not equal"
    if report.passed:
        found = f"The modules are equal on {len(report.checks)} checks"
    table(report.checks, folder, "checks")
    with folder.figure(
        "pair.png",
        columns=2,
        size=(8.5, 0.9 + max(2.6, 0.17 * len(report.layers))),
        title=found,
        caption="Left: what goes into and comes out of each layer, in float64. Right: "
        "the parameters of the same run on both sides; dotted: our own run, with its "
        "start moved by one rounding.",
        alt="Two charts on logarithmic axes: the relative difference of inputs and "
        "outputs for each layer from first to last; that of the parameters against "
        "the step, a line for float64 and one for float32.",
    ) as (depth, drift):
        names = [name for name, _ in report.layers]
        apart = np.maximum([apart for _, apart in report.layers], 1e-18)
        depth.plot(apart, np.arange(len(names)), "o", ms=3)
        depth.set_yticks(np.arange(len(names)), names, fontsize=6)
        depth.invert_yaxis()
        depth.set(xscale="log", xlim=(1e-18, 10), xlabel="difference (zero at 1e-18)")
        for colour, (dtype, course) in zip(
            plots.COLOURS, report.drift.items(), strict=False
        ):
            values = np.maximum([*course.values()], 1e-18)
            drift.plot([*course], values, color=colour, label=dtype)
            drift.axhline(max(report.floor[dtype], 1e-18), color=colour, ls=":")
        drift.set(yscale="log", ylim=(1e-18, 10), xlabel="step")
        if report.drift:
            drift.legend()
    folder.finish(report.to_dict(), headline=found)
    if not report.passed:
        raise Failed(found)
