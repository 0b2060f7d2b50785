"""A population: each member is the run that it would have been alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ch4jax import training
from ch4jax.dropout import init_mlp, mlp
from ch4jax.training import population

OPTIMIZER = optax.sgd(0.1)


def metrics_fn(params, x, labels, *, key):
    return training.classification_metrics(mlp(params, x, (0.5,), key=key), labels)


def problem():
    x = jax.random.normal(jax.random.key(0), (50, 4))
    return x, (x[:, 0] > 0).astype(jnp.int32)


def train(keys, epochs=3):
    data = problem()
    init_keys, run_keys = keys
    params = jax.vmap(partial(init_mlp, (4, 16, 2), std=0.5))(key=init_keys)
    states = population.init_states(params, OPTIMIZER)
    for _ in range(epochs):
        states, metrics = population.train_epoch(
            states,
            data,
            metrics_fn=metrics_fn,
            optimizer=OPTIMIZER,
            batch_size=16,
            keys=jax.random.clone(run_keys),
        )
    tested = population.evaluate(states.params, data, metrics_fn=metrics_fn)
    return states, metrics, tested


def keys_of(seeds):
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(
        jnp.asarray(seeds, jnp.uint32)
    )
    return keys[:, 0], keys[:, 1]


def test_each_member_is_the_run_it_would_have_been_alone(x64):
    together = train(keys_of([3, 4, 5]))
    for i, seed in enumerate([3, 4, 5]):
        alone = train(keys_of([seed]))
        for ours, theirs in zip(
            jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
        ):
            np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-12, atol=1e-14)


def test_members_differ_in_parameters_order_and_masks():
    states, metrics, _ = train(keys_of([0, 1, 2]))
    kernel = states.params[0]["kernel"]
    assert kernel.shape == (3, 4, 16)
    assert len(np.unique(metrics["loss"])) == 3
    same_start = population.init_states(
        jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * 3), states.params), OPTIMIZER
    )
    moved, _ = population.train_epoch(
        same_start,
        problem(),
        metrics_fn=metrics_fn,
        optimizer=OPTIMIZER,
        batch_size=16,
        keys=keys_of([0, 1, 2])[1],
    )
    assert len(np.unique(moved.params[0]["kernel"][:, 0, 0])) == 3


def test_a_population_is_traced_once_however_many_epochs_run():
    traces = 0

    def counting(params, x, labels, *, key):
        nonlocal traces
        traces += 1
        return metrics_fn(params, x, labels, key=key)

    init_keys, run_keys = keys_of([0, 1])
    params = jax.vmap(partial(init_mlp, (4, 16, 2)))(key=init_keys)
    states = population.init_states(params, OPTIMIZER)
    for _ in range(4):
        states, _ = population.train_epoch(
            states,
            problem(),
            metrics_fn=counting,
            optimizer=OPTIMIZER,
            batch_size=16,
            keys=jax.random.clone(run_keys),
        )
    assert traces == 1
    np.testing.assert_array_equal(states.step, [16, 16])
