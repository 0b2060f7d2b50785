"""Level 4: independent runs on either side start alike and end alike."""

import jax
import numpy as np
import torch
from jaxtyping import Array, PRNGKeyArray

from ch4jax import parity, training
from ch4jax.parity import Check, Outcomes
from experiments.pytorch.systems import Outcome, System, as_arrays, as_tensors, as_tree


def independent_runs(system: System, outcome: Outcome, key: PRNGKeyArray) -> Outcomes:
    """Train both sides many times, each with its own randomness, and compare."""
    optimizers = {outcome.metric: outcome.pair}
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
    return parity.outcomes(ours, theirs, outcome.margin, outcome.metric)


def torch_run(system: System, outcome: Outcome, seed: int) -> float:
    """Train as a PyTorch user does, from PyTorch's own start; returns the metric."""
    inputs, labels = as_tensors(system.data)
    torch.manual_seed(seed)
    module = system.theirs.module()
    step = outcome.pair.theirs(module.parameters())
    rows = torch.tensor(system.rows)
    for _ in range(system.epochs):
        for batch in rows[torch.randperm(len(rows))].split(system.batch_size):
            module.zero_grad()
            system.theirs.loss(module, module(inputs[batch]), labels[batch]).backward()
            step()
    module.eval()
    with torch.no_grad():
        x, labels = as_tensors(outcome.test)
        return outcome.torch_score(module(x), labels).item()


def same_start(system: System, key: PRNGKeyArray, draws: int = 8) -> Check:
    """Level 4: each parameter starts from PyTorch's distribution."""
    ours = [system.start(k) for k in jax.random.split(jax.random.clone(key), draws)]
    theirs = []
    for seed in range(draws):
        torch.manual_seed(seed)
        theirs.append(as_tree(system.theirs.module(), ours[0]))
    return parity.same_start(ours, theirs)
