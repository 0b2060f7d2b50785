"""A claim of the text, the effect that was measured, and the rule of its verdict.

An effect is oriented: positive is what the text claims. It *holds* if its 95% interval
lies above the smallest effect that counts, does *not hold here* if it lies below, and
is not decided otherwise. Claims, sizes and smallest effects are fixed in the code
before the reported seeds are run.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ch4jax.statistics import Interval, mean_interval
from experiments.common.run_folder import RunFolder

HOLDS, FAILS, OPEN = "holds", "does not hold here", "not decided by these runs"


class Setting(NamedTuple):
    """What every claim is given.

    Attributes:
      number: of the claim.
      seed: each run draws its own data, noise and parameters from it.
      quick: fewer or smaller runs.
      folder: where the figures go.
    """

    number: int
    seed: int
    quick: bool
    folder: RunFolder

    def figure(
        self,
        columns: int = 1,
        *,
        height: float = 3.2,
        sharey: bool = False,
        **words: str,
    ) -> AbstractContextManager[Any]:
        """Lend the axes of a claim's figure; see `RunFolder.figure`."""
        file, size = f"claim{self.number:02}.png", (8.5, height)
        return self.folder.figure(file, 1, columns, size=size, sharey=sharey, **words)

    def size(self, full: int, quick: int) -> int:
        """Return how many runs, rows or epochs to take."""
        return quick if self.quick else full

    def keys(self, runs: int, stream: int = 0) -> Key[Array, " runs"]:
        """Return a key for each run; no two claims or streams share one."""
        number = self.number + 100 * stream
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return jax.random.split(key, runs)


class Finding(NamedTuple):
    """What the runs of a claim gave.

    Attributes:
      claim: the sharp version of the text's sentence that was tested.
      source: section of the first and Chinese edition; of the English one.
      unit: of the effect.
      smallest: the smallest effect that counts, in that unit.
      effects: for each condition, the effect in each run. The first condition is the
        one that the summary quotes.
      exact: nothing is random, so that one value is the whole truth.
      number: of the claim.
    """

    claim: str
    source: str
    unit: str
    smallest: float
    effects: Mapping[str, Float[np.ndarray, " runs"]]
    exact: bool = False
    number: int = 0

    def intervals(self) -> dict[str, Interval]:
        """Return the mean effect of each condition with its 95% interval."""
        if self.exact:
            return {
                name: Interval(*(float(values.mean()),) * 3)
                for name, values in self.effects.items()
            }
        return {name: mean_interval(values) for name, values in self.effects.items()}

    def first(self) -> Interval:
        """Return the interval that the summary quotes."""
        return next(iter(self.intervals().values()))

    def verdicts(self) -> dict[str, str]:
        """Return the verdict on each condition, by the rule of this module."""
        return {
            name: verdict(interval, self.smallest)
            for name, interval in self.intervals().items()
        }

    def verdict(self) -> str:
        """Return the verdict over all conditions."""
        each = self.verdicts()
        where = [name for name, found in each.items() if found == HOLDS]
        if len(where) == len(each):
            return HOLDS
        if where:
            return f"holds if {' or '.join(where)}"
        return OPEN if OPEN in each.values() else FAILS


def verdict(interval: Interval, smallest: float) -> str:
    """Return what an interval says about an effect that should reach `smallest`.

    >>> verdict(Interval(2.0, 1.5, 2.5), 1.0), verdict(Interval(0.0, -1.0, 1.0), 2.0)
    ('holds', 'does not hold here')
    >>> verdict(Interval(2.0, 0.5, 3.5), 1.0)
    'not decided by these runs'
    """
    if interval.low >= smallest:
        return HOLDS
    return FAILS if interval.high < smallest else OPEN
