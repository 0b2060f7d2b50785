"""Level 4: independent runs on either side start alike and end alike."""

import math

import jax
import numpy as np
import scipy.stats
import torch
from jaxtyping import Array, PRNGKeyArray

from ch4jax import training
from ch4jax.statistics import difference_interval, equivalence_p
from experiments.pytorch.systems import Outcome, System, as_arrays, as_tensors, as_tree
from experiments.pytorch.verdicts import Outcomes, Verdict

ALPHA = 0.05  # of the equivalence test


def independent_runs(system: System, outcome: Outcome, key: PRNGKeyArray) -> Outcomes:
    """Train both sides many times, each with its own randomness, and compare.

    Equivalence is shown by two one-sided tests: see `ch4jax.statistics`.
    """
    optimizers = {outcome.metric: outcome.optimizers}
    system = system._replace(optimizers=optimizers, epochs=outcome.epochs)

    @jax.jit
    def runs(data: training.Data, keys: PRNGKeyArray) -> Array:
        x, labels = as_arrays(outcome.test)

        def one(key: PRNGKeyArray) -> Array:
            params = system.run(system, system.start(key), data, key)
            return outcome.score(system.ours.predict(params, x, None), labels)

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.clone(key), outcome.runs)
    ours = np.asarray(runs(as_arrays(system.data), keys), float)
    seeds = range(outcome.runs)
    theirs = np.array([torch_run(system, outcome, seed) for seed in seeds])
    interval = difference_interval(ours, theirs, 1 - 2 * ALPHA)
    return Outcomes(
        outcome.metric,
        outcome.margin,
        ours,
        theirs,
        interval.estimate,
        (interval.low, interval.high),
        equivalence_p(ours, theirs, outcome.margin),
    )


def torch_run(system: System, outcome: Outcome, seed: int) -> float:
    """Train as a PyTorch user does, from PyTorch's own start; returns the metric."""
    inputs, labels = as_tensors(system.data, torch.float32)
    torch.manual_seed(seed)
    module = system.theirs.module()
    optimizer = outcome.optimizers[1](module)
    rows = torch.tensor(system.rows)
    schedule = None
    if outcome.schedule:
        steps = system.epochs * -(-len(rows) // system.batch_size)
        schedule = outcome.schedule(optimizer, steps)
    for _ in range(system.epochs):
        for batch in rows[torch.randperm(len(rows))].split(system.batch_size):
            optimizer.zero_grad()
            system.theirs.loss(module, module(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
    module.eval()
    with torch.no_grad():
        x, labels = as_tensors(outcome.test, torch.float32)
        return outcome.torch_score(module(x), labels).item()


def equivalence(system: System, runs: Outcomes) -> Verdict:
    """Level 4: the end of the 90% interval that is further from zero."""
    return Verdict(
        system.name,
        4,
        f"{runs.metric}, {len(runs.ours)} runs a side, bound of the 90% interval",
        float(np.max(np.abs(runs.interval))),
        runs.margin,
    )


def same_start(system: System, key: PRNGKeyArray, draws: int = 8) -> Verdict:
    """Level 4: each parameter starts from PyTorch's distribution (Kolmogorov-Smirnov).

    The tolerance is the distance that samples of this size exceed once in 10,000 times.
    """
    ours = [system.start(k) for k in jax.random.split(jax.random.clone(key), draws)]
    theirs = []
    for seed in range(draws):
        torch.manual_seed(seed)
        theirs.append(as_tree(system.theirs.module(), ours[0]))
    found = []
    columns, torch_columns = (
        zip(*map(jax.tree.leaves, trees), strict=True) for trees in (ours, theirs)
    )
    for a, b in zip(columns, torch_columns, strict=True):
        a, b = (np.concatenate([np.ravel(leaf) for leaf in c])[:50_000] for c in (a, b))
        if np.ptp(a) == np.ptp(b) == 0:
            distance, bound = np.any(a[0] != b[0]), 0.5
        else:
            distance, _ = scipy.stats.ks_2samp(a, b)
            bound = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / a.size)
        found.append((distance, bound))
    worst = np.argmax([distance / bound for distance, bound in found])  # NaN is worst
    distance, bound = map(float, found[worst])
    return Verdict(system.name, 4, "start, distance of distributions", distance, bound)
