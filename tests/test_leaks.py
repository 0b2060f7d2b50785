"""No training function keeps a tracer, and hyperparameters may be traced.

A jitted function that takes a function or an optimiser as a static argument keeps it:
had that closed over a traced number, the tracer would outlive its trace.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ch4jax import backprop, deep_mlp, house_prices, parameters, training, weight_decay
from ch4jax.house_prices import models
from ch4jax.initialization import normal
from ch4jax.training import folds, population

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
Y = X.sum(axis=1)
IN_TRAINING = jnp.asarray(folds.k_fold(8, 2))
SIZES = {"epochs": 2, "batch_size": 3}
RATE = jnp.float32(0.1)


def metrics_fn(params, x, y, *, key):
    return {"loss": jnp.square(x @ params - y)}


def scaled_metrics(scale):
    def metrics(params, x, y, *, key):
        return {"loss": scale * jnp.square(x @ params - y)}

    return metrics


def key():
    return jax.random.key(0)


def train_step(rate):
    optimizer = optax.adam(rate)
    return training.train_step(
        training.init_state(jnp.zeros(3), optimizer),
        training.Batch(X, Y, jnp.ones(8, bool)),
        metrics_fn=scaled_metrics(rate),
        optimizer=optimizer,
        key=key(),
    )


def fit(rate):
    return training.fit(
        jnp.zeros(3),
        (X, Y),
        metrics_fn=scaled_metrics(rate),
        optimizer=optax.adam(rate),
        key=key(),
        **SIZES,
    )


def fit_frozen(rate):
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    return training.fit(
        params,
        (X, Y),
        metrics_fn=lambda p, x, y, *, key: metrics_fn(p["w"], x, y, key=key),
        optimizer=parameters.freeze(optax.adam(rate), params, ["b"]),
        key=key(),
        **SIZES,
    )


def fit_population(rate):
    return jax.vmap(fit)(rate * jnp.arange(3.0))


def fit_fold(rate):
    return folds.fit(
        jnp.zeros(3),
        rate,
        (X, Y),
        IN_TRAINING[0],
        recipe=lambda rate: (scaled_metrics(rate), optax.adam(rate)),
        steps=2,
        watch=True,
        key=key(),
        **SIZES,
    )


def train_with_decay(rate):
    params = weight_decay.init_params(3, key=key())
    data = X, Y[:, None]
    return weight_decay.train(
        params, data, rate, learning_rate=rate, key=key(), **SIZES
    )


def fit_with_decay(rate):
    return training.fit(
        weight_decay.model.init(key(), X),
        (X, Y[:, None]),
        metrics_fn=weight_decay.mse,
        optimizer=weight_decay.l2_sgd(rate, rate, momentum=0.9),
        key=key(),
        **SIZES,
    )


def train_linear(rate):
    return house_prices.train_linear(
        house_prices.Setting(rate[None], rate[None]),
        X,
        jnp.exp(Y),
        IN_TRAINING,
        steps=2,
        keys=jax.random.split(key(), (2, 1)),
        **SIZES,
    )


def train_model(rate):
    return models.train(
        models.Model(hidden=(2,), waves=1, frequencies=1, **SIZES),
        models.Setting(rate[None], rate[None], rate[None]),
        jnp.stack([X, X]),
        Y,
        IN_TRAINING,
        steps=2,
        keys=jax.random.split(key(), (2, 1)),
    )


def backpropagate(rate):
    params = backprop.init_params(3, 2, 2, key=key())
    problem = params, X, jnp.arange(8) % 2, rate
    kept = backprop.forward(*problem)
    return backprop.backward(*problem, kept), backprop.autodiff(*problem)


def difference(rate):
    return backprop.directional_difference(jnp.sum, X, X, rate)


def watch_signal(rate):
    params = deep_mlp.init_params(3, 2, 3, 2, normal(0.5), key=key())
    architecture = deep_mlp.Architecture(lambda x: jnp.tanh(rate * x))
    return deep_mlp.signal(params, X, jnp.arange(8) % 2, architecture)


TRACED = (
    *(train_step, fit, fit_frozen, fit_population, fit_fold, train_with_decay),
    *(fit_with_decay, train_linear, train_model, backpropagate, difference),
    watch_signal,
)


@pytest.mark.parametrize("train", TRACED, ids=lambda train: train.__name__)
def test_a_traced_hyperparameter_does_not_leak(train):
    with jax.checking_leaks():
        jax.jit(train)(RATE)


OPTIMIZER = optax.adam(0.1)


def train_epoch():
    return training.train_epoch(
        training.init_state(jnp.zeros(3), OPTIMIZER),
        (X, Y),
        metrics_fn=metrics_fn,
        optimizer=OPTIMIZER,
        batch_size=3,
        key=key(),
    )


def train_population():
    return population.train_epoch(
        population.init_states(jnp.zeros((2, 3)), OPTIMIZER),
        (X, Y),
        metrics_fn=metrics_fn,
        optimizer=OPTIMIZER,
        batch_size=3,
        keys=population.seed_keys(0, 2),
    )


def evaluate():
    return training.evaluate(jnp.zeros(3), (X, Y), metrics_fn=metrics_fn)


def evaluate_population():
    params = jnp.zeros((2, 3))
    return population.evaluate(params, (X, Y), metrics_fn=metrics_fn)


JITTED = (train_epoch, train_population, evaluate, evaluate_population)


@pytest.mark.parametrize("train", JITTED, ids=lambda train: train.__name__)
def test_what_is_jitted_leaks_nothing_called_or_traced(train):
    with jax.checking_leaks():
        train()
        jax.jit(train)()


def test_counting_saved_bytes_leaks_nothing():
    with jax.checking_leaks():
        backprop.saved_bytes(lambda p, x: jnp.sin(p * x).sum(), X, Y[:, None])


def test_equal_optimisers_compile_once_where_their_numbers_are_arguments():
    traces = []

    def counted(params, x, y, *, key):
        traces.append(key)
        return metrics_fn(params, x, y, key=key)

    @jax.jit
    def run(rate, decay):
        return training.fit(
            jnp.zeros(3),
            (X, Y),
            metrics_fn=counted,
            optimizer=optax.chain(
                optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9)
            ),
            key=key(),
            **SIZES,
        )[0]

    ends = [run(rate, decay) for rate in (0.1, 0.2) for decay in (0.0, 1.0)]
    assert len(traces) == 1
    assert len({tuple(end.tolist()) for end in ends}) == 4
