"""What a comparison found."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ch4jax.errors import Mismatch


class Check(NamedTuple):
    """One comparison: how far apart, and how far apart it may be."""

    level: int
    what: str
    dtype: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; a NaN is not."""
        return self.difference <= self.allowed


class Report(NamedTuple):
    """What `compare` found; `str(report)` is a table.

    Attributes:
      checks: of each level up to the first that failed.
      first: where the outputs of the two modules part, empty if they do not.
      notes: settings in which paired layers differ, and other known causes.
      layers: `(place, difference)` in the order of PyTorch's forward pass.
      parameters: how far apart each parameter's gradient is, by path, in float64.
      drift: by dtype, how far apart the parameters are after some steps.
      floor: by dtype, how far our own run ends from itself if its start is moved by one
        rounding.
    """

    checks: tuple[Check, ...]
    first: str
    notes: tuple[str, ...]
    layers: tuple[tuple[str, float], ...]
    parameters: Mapping[str, float]
    drift: Mapping[str, Mapping[int, float]]
    floor: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{'level':5}  {'what':38}  {'dtype':7}  {'apart':>8}  {'allowed':>8}"]
        for level, what, dtype, difference, allowed in self.checks:
            end = "" if difference <= allowed else "  FAILS"
            numbers = f"{difference:8.1e}  {allowed:8.1e}{end}"
            lines.append(f"{level:5}  {what[:38]:38}  {dtype:7}  {numbers}")
        if self.first:
            lines.append(f"first difference: {self.first}")
        lines += [f"looks like: {note}" for note in self.notes]
        if not self.passed:
            worst = sorted(self.parameters.items(), key=lambda item: -item[1])[:5]
            lines += [
                f"gradient of {name}: {apart:.1e} apart"
                for name, apart in worst
                if not apart <= 1e-12
            ]
        return "\n".join([*lines, "equal" if self.passed else "not equal"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        found = self._asdict() | {"passed": self.passed}
        found["checks"] = [c._asdict() | {"passed": c.passed} for c in self.checks]
        return json.loads(json.dumps(found))


def difference(ours: PyTree, theirs: PyTree, least: float = 0.0) -> float:
    """Return ||a - b|| / ||b||, the largest over the arrays of two trees.

    It is infinite for unequal shapes, and NaN if an entry is.

    Args:
      ours: a tree of arrays, or one.
      theirs: as many, in the same order.
      least: what stands in for a smaller ||b||.

    Raises:
      Mismatch: if there are not as many.
    """
    a, b = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    if len(a) != len(b):
        raise Mismatch(f"{len(a)} arrays for PyTorch's {len(b)}")
    return float(np.max([_apart(*pair, least) for pair in zip(a, b, strict=True)]))


def _apart(ours: PyTree, theirs: PyTree, least: float) -> float:
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if a.shape != b.shape:
        return math.inf
    size = max(float(np.linalg.norm(b)), least)
    apart = float(np.linalg.norm(a - b))
    return apart / size if size > 0 else apart


def differences(ours: PyTree, theirs: PyTree) -> dict[str, float]:
    """Return the difference of each array of two trees of one structure, by path.

    An array that is smaller than a thousandth of the largest is measured against that:
    the gradient of a bias before BatchNorm is zero but for rounding.
    """
    named, others = jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs)
    sizes = [float(np.linalg.norm(np.asarray(b, float))) for b in others]
    least = 1e-3 * max(sizes, default=0.0)
    pairs = zip(named, others, strict=True)
    return {path_of(keys): _apart(a, b, least) for (keys, a), b in pairs}


def path_of(keys: tuple[Any, ...]) -> str:
    """Return where an array of a tree is, as `block/kernel`."""
    return jax.tree_util.keystr(keys, simple=True, separator="/").removesuffix("/value")


def largest(found: Mapping[str, float]) -> float:
    """Return the largest difference, NaN if one is NaN."""
    return float(np.max([*found.values()], initial=0.0))
