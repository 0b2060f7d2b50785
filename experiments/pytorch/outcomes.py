"""Level 4: independent runs on either side start alike and end alike."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
import torch

from experiments.pytorch.levels import Verdict
from experiments.pytorch.systems import (
    Outcome,
    System,
    as_tree,
    on_device,
    start,
    torch_data,
    torch_train,
)

ALPHA = 0.05  # of the equivalence test


class Outcomes(NamedTuple):
    """The final metrics of independent runs.

    Attributes:
      ours: shape (runs,).
      theirs: shape (runs,).
      difference: of the means.
      interval: the 90% interval of the difference; inside the margins if and only if
        both one-sided tests reject at 5%.
      p: the larger of the two p-values.
    """

    ours: np.ndarray
    theirs: np.ndarray
    difference: float
    interval: tuple[float, float]
    p: float


def independent_runs(system: System, outcome: Outcome, key: Any) -> Outcomes:
    """Level 4: train both sides many times, each with its own randomness, and judge.

    Equivalence is shown by two one-sided tests (Schuirmann, 1987; Welch's t), which
    reject that the means are a margin or more apart.
    """
    keys = jax.random.split(jax.random.clone(key), outcome.runs)

    @jax.jit
    def run(data: Any, keys: Any) -> Any:
        def one(key: Any) -> Any:
            optimizer, _ = outcome.optimizers
            return outcome.score(
                system.run(system, data, key, optimizer, outcome.epochs)
            )

        return jax.vmap(one)(keys)

    ours = np.asarray(run(on_device(system), keys), float)
    data = torch_data(system)
    seeds = range(outcome.runs)
    theirs = np.array([torch_run(system, outcome, data, seed) for seed in seeds])
    result: Any = scipy.stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = result.confidence_interval(1 - 2 * ALPHA)
    tests: list[Any] = [
        scipy.stats.ttest_ind(ours + shift, theirs, equal_var=False, alternative=side)
        for shift, side in ((outcome.margin, "greater"), (-outcome.margin, "less"))
    ]
    p = max(test.pvalue for test in tests)
    apart = float(ours.mean() - theirs.mean())
    return Outcomes(ours, theirs, apart, (float(low), float(high)), float(p))


def torch_run(system: System, outcome: Outcome, data: Any, seed: int) -> float:
    """Train PyTorch's side once, from its own start, and return the metric."""
    torch.manual_seed(seed)
    module = system.module()
    optimizer = outcome.optimizers[1](module)
    schedule = None
    if outcome.schedule:
        steps = outcome.epochs * -(-len(system.rows) // system.batch_size)
        schedule = outcome.schedule(optimizer, steps)
    torch_train(
        system, module, optimizer, data, epochs=outcome.epochs, schedule=schedule
    )
    module.eval()
    with torch.no_grad():
        return float(outcome.torch_score(module))


def equivalence(system: System, outcome: Outcome, outcomes: Outcomes) -> Verdict:
    """Level 4: the end of the 90% interval that is further from zero."""
    return Verdict(
        system.name,
        4,
        f"{outcome.metric}, {outcome.runs} runs a side, bound of the 90% interval",
        float(np.max(np.abs(outcomes.interval))),
        outcome.margin,
    )


def same_start(system: System, key: Any, draws: int = 8) -> Verdict:
    """Level 4: each parameter starts from PyTorch's distribution (Kolmogorov-Smirnov).

    The tolerance is the distance that samples of this size exceed once in 10,000 times.
    """
    ours = [start(system, k) for k in jax.random.split(jax.random.clone(key), draws)]
    theirs = []
    for seed in range(draws):
        torch.manual_seed(seed)
        theirs.append(as_tree(system, system.module(), ours[0]))
    found = []
    columns = zip(*map(jax.tree.leaves, ours), strict=True)
    torch_columns = zip(*map(jax.tree.leaves, theirs), strict=True)
    for a, b in zip(columns, torch_columns, strict=True):
        a, b = (np.concatenate([np.ravel(leaf) for leaf in c])[:50_000] for c in (a, b))
        if np.ptp(a) == np.ptp(b) == 0:
            distance, bound = float(np.any(a[0] != b[0])), 0.5
        else:
            test: Any = scipy.stats.ks_2samp(a, b)
            distance = float(test.statistic)
            bound = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / a.size)
        found.append((distance, bound))
    worst = np.argmax([distance / bound for distance, bound in found])  # NaN is worst
    return Verdict(system.name, 4, "start, distance of distributions", *found[worst])
