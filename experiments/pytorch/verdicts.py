"""What a comparison finds. Reading it needs no PyTorch."""

from typing import NamedTuple

import numpy as np


class Verdict(NamedTuple):
    """What was compared, how far apart it is, and how far apart it may be."""

    system: str
    level: int
    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; a NaN is not."""
        return self.difference <= self.tolerance


class Outcomes(NamedTuple):
    """The final metrics of independent runs.

    Attributes:
      metric: by which a finished run is judged.
      margin: difference of means from which the two sides count as different.
      ours: shape (runs,).
      theirs: shape (runs,).
      difference: of the means.
      interval: the 90% interval of the difference; inside the margins if and only if
        both one-sided tests reject at 5%.
      p: the larger of the two p-values.
    """

    metric: str
    margin: float
    ours: np.ndarray
    theirs: np.ndarray
    difference: float
    interval: tuple[float, float]
    p: float
