"""Freezing against PyTorch's `requires_grad_(False)`, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from parity.carry import carry
from support import relative_difference

from ch4jax import parameters, training
from ch4jax.interop import from_torch
from ch4jax.parameters import SharedMLP
from experiments.pytorch import twins

STEPS = 100
RECIPES = {
    "sgd with momentum": (
        optax.sgd(0.01, momentum=0.9),
        lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    ),
    "adam with l2": (
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01)),
        lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_with_a_frozen_layer_ends_where_pytorch_ends(name, x64):
    optimizer, make_theirs = RECIPES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 4)))
    batch = training.Batch(x, x.sum(axis=1), jnp.ones(len(x), bool))
    shapes = jax.eval_shape(SharedMLP().init, jax.random.key(0), x)
    normal = jax.nn.initializers.normal(0.5)
    drawn = parameters.reinitialize(shapes, {"*": normal}, key=jax.random.key(0))
    start = jax.tree.map(lambda a: a.astype(jnp.float64), drawn)
    optimizer = parameters.freeze(optimizer, start, ["params/hidden/*"])

    def metrics(variables, x, target, *, key):
        return {"loss": (SharedMLP().apply(variables, x)[:, 0] - target) ** 2}

    def step(state, _):
        return training.train_step(
            state,
            batch,
            metrics_fn=metrics,
            optimizer=optimizer,
            key=jax.random.key(0),
        )

    state = training.init_state(start, optimizer)
    state = jax.jit(lambda s: jax.lax.scan(step, s, length=STEPS)[0])(state)

    twin = carry(start, twins.SharedMLP())
    twin[0].requires_grad_(False)
    theirs = make_theirs([p for p in twin.parameters() if p.requires_grad])
    torch_x, target = (torch.tensor(np.asarray(a)) for a in (x, batch.labels))
    for _ in range(STEPS):
        theirs.zero_grad()
        torch.nn.functional.mse_loss(twin(torch_x)[:, 0], target).backward()
        theirs.step()

    expected = from_torch(twin.state_dict(), start, names=twin.names)
    for path, ours in parameters.flatten(state.params).items():
        theirs = parameters.get(expected, path)
        assert relative_difference(ours, theirs) <= 1e-12, path
