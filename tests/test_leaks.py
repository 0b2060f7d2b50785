"""No training function keeps a tracer, and hyperparameters may be traced.

A jitted function keeps its static arguments: if one of them closes over a traced
number, the tracer outlives its trace.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ch4jax import backprop, house_prices, parameters, training, weight_decay
from ch4jax.house_prices import models
from ch4jax.training import folds, population

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
DATA = X, X.sum(axis=1)
COLUMN = X, X.sum(axis=1, keepdims=True)
IN_TRAINING = jnp.asarray(folds.k_fold(8, 2))
SIZES = {"epochs": 2, "batch_size": 3}
OPTIMIZER = optax.adam(0.1)


def metrics_fn(params, x, y, *, key):
    return {"loss": jnp.square(x @ params - y)}


def recipe(rate):
    """Return a metrics function and an optimiser that close over a number."""
    return lambda p, x, y, *, key: {"loss": rate * (x @ p - y) ** 2}, optax.adam(rate)


def key():
    return jax.random.key(0)


def keys():
    return jax.random.split(key(), (2, 1))


def train_step(rate):
    fn, optimizer = recipe(rate)
    state = training.init_state(jnp.zeros(3), optimizer)
    batch = training.Batch(*DATA, jnp.ones(8, bool))
    given = {"metrics_fn": fn, "optimizer": optimizer}
    return training.train_step(state, batch, key=key(), **given)


def fit(rate):
    params = weight_decay.model.init(key(), X)
    l2_sgd = weight_decay.l2_sgd(rate, rate, momentum=0.9)
    optimizer = parameters.freeze(l2_sgd, params, ["*/bias"])
    given = {"metrics_fn": weight_decay.mse, "optimizer": optimizer} | SIZES
    return training.fit(params, COLUMN, key=key(), **given)


def fit_fold(rate):
    fn, optimizer = recipe(rate)
    given = {"metrics_fn": fn, "optimizer": optimizer} | SIZES
    fold = {"steps": 2, "watch": True, "key": key()}
    return folds.fit(jnp.zeros(3), DATA, IN_TRAINING[0], **given, **fold)


def train_with_decay(rate):
    params = weight_decay.init_params(3, key=key())
    given = {"learning_rate": rate, "key": key()} | SIZES
    return weight_decay.train(params, COLUMN, rate, **given)


def train_linear(rate):
    setting, prices = house_prices.Setting(rate[None], rate[None]), jnp.exp(DATA[1])
    return house_prices.train_linear(
        setting, X, prices, IN_TRAINING, steps=2, keys=keys(), **SIZES
    )


def train_model(rate):
    small = models.Architecture((2,), waves=1, frequencies=1)
    settings = models.Setting(*jnp.full((3, 1, 2), rate))
    rest = jnp.stack([X, X]), DATA[1], IN_TRAINING
    return models.train(small, settings, *rest, **SIZES, steps=2, keys=keys())


def backpropagate(rate):
    params = backprop.init_params(3, 2, 2, key=key())
    problem = params, X, jnp.arange(8) % 2, rate
    kept = backprop.forward(*problem)
    return backprop.backward(*problem, kept), backprop.autodiff(*problem)


TRACED = (
    *(train_step, fit, fit_fold, train_with_decay, train_linear, train_model),
    backpropagate,
)


@pytest.mark.parametrize("train", TRACED, ids=lambda train: train.__name__)
def test_a_traced_hyperparameter_does_not_leak(train):
    with jax.checking_leaks():
        jax.jit(train)(jnp.float32(0.1))


def test_what_is_jitted_leaks_nothing():
    fixed = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 3}

    def run():
        state = training.init_state(jnp.zeros(3), OPTIMIZER)
        state, _ = training.train_epoch(state, DATA, key=key(), **fixed)
        states = population.init_states(jnp.zeros((2, 3)), OPTIMIZER)
        keys = population.seed_keys(0, 2)
        states, _ = population.train_epoch(states, DATA, keys=keys, **fixed)
        return (
            training.evaluate(state.params, DATA, metrics_fn=metrics_fn),
            population.evaluate(states.params, DATA, metrics_fn=metrics_fn),
        )

    with jax.checking_leaks():
        run()
        jax.jit(run)()
        backprop.saved_bytes(lambda p, x: jnp.sin(p * x).sum(), X, X)
