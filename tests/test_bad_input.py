"""What public functions refuse, in one line of ours; and numbers that stay honest."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import one_line

from ch4jax import (
    backprop,
    deep_mlp,
    dropout,
    initialization,
    parameters,
    recurrent,
    statistics,
    training,
    weight_decay,
)
from ch4jax.blocks import FixedHiddenMLP
from ch4jax.data.synthetic import linear_regression
from ch4jax.dropout import DropoutMLP
from ch4jax.house_prices import log_rmse
from ch4jax.initialization import he_normal, product_log_norms
from ch4jax.layers import MyLinear
from ch4jax.parameters import replace
from ch4jax.training import classification_metrics, folds, population, sharding
from ch4jax.weight_decay import kernel_mask, l2_adam, l2_sgd, squared_loss

key = partial(jax.random.key, 0)  # a new array each time, for the check of reuse
SGD = optax.sgd(0.1)
X, LABELS = jnp.ones((20, 3)), jnp.zeros(20, jnp.int32)
NO_X, NO_LABELS, WIDE = X[:0], LABELS[:0], jnp.ones((2, 4))
LAYERS = [{"kernel": jnp.eye(3), "bias": jnp.zeros(3)}] * 2
NET = deep_mlp.init_params(3, 4, 2, 3, he_normal, key=key())
TWO = backprop.init_params(3, 4, 3, key=key())
CUT = TWO._replace(w2=TWO.w2[1:])
RNN, LINE = recurrent.init_rnn(3, 4, key=key()), weight_decay.init_params(3, key=key())
TREE = {"a": {"kernel": WIDE, "b": WIDE, "bias": X[0]}}
ROW, ONE = np.arange(3.0), X[:, :1]


def metrics_fn(params, x, labels, *, key):
    return classification_metrics(x @ params, labels)


def column_fn(params, x, labels, *, key):
    return {"loss": (x @ params)[:, :1]}


def loss_fn(params, x, labels, *, key):
    return (x @ params)[:, 0]


def hits_fn(params, x, labels, *, key):
    return {"loss": (x @ params).argmax(axis=1)}


def lossless_fn(params, x, labels, *, key):
    return {"accuracy": (x @ params)[:, 0]}


def each(data=(X, LABELS), metrics_fn=metrics_fn, batch_size=8, epochs=1, rows=20):
    """Return every way to train and evaluate, by name, as calls without arguments."""
    given = {"metrics_fn": metrics_fn, "batch_size": batch_size}
    start, params = training.init_state(jnp.eye(3), SGD), jnp.eye(3)
    member = jax.tree.map(lambda a: a[None], start)
    members = population.seed_keys(0, 1)
    fold = {"epochs": epochs, "batch_size": batch_size, "steps": 3, "watch": True}
    sgd = given | {"optimizer": SGD}
    fit = partial(folds.fit, **(fold | sgd))
    return {
        "epoch": lambda: training.train_epoch(start, data, key=key(), **sgd),
        "fit": lambda: training.fit(params, data, epochs=epochs, key=key(), **sgd),
        "evaluate": lambda: training.evaluate(params, data, **given),
        "members": lambda: population.train_epoch(member, data, keys=members, **sgd),
        "test members": lambda: population.evaluate(params[None], data, **given),
        "fold": lambda: fit(params, data, jnp.arange(rows) < 9, key=key()),
    }


WRONG = {
    "fewer labels": ({"data": (X, LABELS[:15])}, r"as many rows.*\(20, 3\), \(15,\)"),
    "no rows": ({"data": (NO_X, NO_LABELS), "rows": 0}, r"as many rows, and some, got"),
    "a column of labels": ({"data": (X, LABELS[:, None])}, r"integers of shape \(\d+,"),
    "one-hot labels": ({"data": (X, jnp.eye(20, 3, dtype=int))}, "labels must be inte"),
    "labels of 1.7": ({"data": (X, LABELS + 1.7)}, "labels must be integers.*float32"),
    "a column of losses": ({"metrics_fn": column_fn}, r"'loss' of shape \(\d+, 1\)"),
    "a loss alone": ({"metrics_fn": loss_fn}, "must return a dictionary .*Tracer"),
    "batches of none": ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_way_to_train_refuses_what_does_not_fit(case):
    given, message = WRONG[case]
    for call in each(**given).values():
        with one_line(ValueError, message):
            call()


def without_mode(x):
    return DropoutMLP().apply(DropoutMLP().init(key(), x), x)


def weighted_step(weights):
    state = training.init_state(jnp.eye(3), SGD)
    batch = training.Batch(X, LABELS, weights)
    given = {"metrics_fn": metrics_fn, "optimizer": SGD, "key": key()}
    return training.train_step(state, batch, **given)


def draw(rows, noise):
    return linear_regression(ONE[:2], 0.0, rows, noise=noise, key=key())


decay = partial(weight_decay.train, key=key())
reinitialize = partial(parameters.reinitialize, key=key())
deal = partial(folds.shuffled_batches, key=key())
mlp = partial(dropout.mlp, LAYERS, key=None)
signal = partial(deep_mlp.signal, NET, architecture=deep_mlp.Architecture(jnp.tanh))


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (each(metrics_fn=lossless_fn)["fit"], (), r"'loss', got \['accuracy'\]"),
        (each(metrics_fn=hits_fn)["fit"], (), "in floats .*, got int32"),
        (each(rows=19)["fold"], (), r"\(20, 3\), \(20,\), \(19,\)"),
        (weighted_step, (2 * jnp.ones(20),), "real must be true .* row, got float32"),
        (deal, (jnp.arange(9), 2, 5), "in_training must be true .* each row, got int"),
        (backprop.forward, (TWO, X, LABELS[:, None], 0.0), r"integers of .*\(20,\)"),
        (signal, (X, LABELS[:9]), r"integers of shape \(20,\)"),
        (mlp, (X[0], (0.5,)), r"\(3,\) does not fit the kernel of shape \(3, 3\)"),
        (mlp, (WIDE, (0.5,)), r"\(2, 4\) does not fit the kernel of shape \(3, 3\)"),
        (mlp, (X, (1.5,)), r"in \[0, 1\], got 1.5"),
        (without_mode, (X,), "needs train=True or train=False"),
        (log_rmse, (X[0], X[:, :1]), r"one shape, got \(3,\) and \(20, 1\)"),
        (log_rmse, (NO_LABELS, NO_LABELS), "rows, and some"),
        (backprop.directional_difference, (jnp.sum, X, WIDE, 0.1), "have one shape"),
        (replace, (TREE, "a/b", 3.0), r"\(2, 4\) and dtype float32, got type float"),
        (replace, (TREE, "a/b", WIDE.T), r"a/b .*\(2, 4\) .*, got shape \(4, 2\) and"),
        (replace, (TREE, "a/b", np.ones((2, 4))), "float32, got .* and dtype float64"),
        (replace, (TREE, "b", WIDE), "no parameter b; closest: a/b"),
        (parameters.get, (TREE, "a/bb"), "no parameter a/bb; closest: a/b, a/bias, a/"),
        (parameters.get, ({}, "a/b"), "no parameter a/b; closest: '$"),
        (parameters.flatten, (TREE | {"a/b": WIDE},), "two leaves have the path a/b"),
        (reinitialize, (TREE, {"c/*": he_normal}), r"c/\* matches no parameter; close"),
        (parameters.freeze, (SGD, TREE, ["c/*"]), r"c/\* matches no parameter; close"),
        (kernel_mask, (TREE,), r"would leave out \['a'\]\['b'\]: expected"),
        (kernel_mask, (WIDE,), "would leave out the tree: expected"),
        (l2_sgd(0.1, 3.0).init, (TREE,), r"would leave out \['a'\]\['b'\]: expected"),
        (l2_adam(0.1, 3.0).init, (TREE,), r"would leave out \['a'\]\['b'\]: expected"),
        (l2_sgd(0.1, 3.0).init, ({},), "would decay nothing"),
        (l2_adam(0.1, 3.0).init, ({},), "would decay nothing"),
        (MyLinear(5, 3).init, (key(), WIDE), r"of width 5, got shape \(2, 4\)"),
        (FixedHiddenMLP().init, (key(), X), "rows of width 20, got 3"),
        (mlp, (X, (0.5, 0.5)), r"1 hidden layers, got 2: \(0.5, 0.5\)"),
        (backprop.forward, (TWO, WIDE, LABELS, 0.0), r"\(2, 4\) .* of shape \(3, 4\)"),
        (backprop.forward, (CUT, X, LABELS, 0.0), r"w1 .*\(3, 4\).*w2 .*\(3, 3\)"),
        (signal, (WIDE, LABELS[:2]), r"x of shape \(2, 4\).*\(3, 4\)"),
        (partial(dropout.init_mlp, std=-1.0, key=key()), ((3, 4),), "std .*, got -1.0"),
        (
            partial(recurrent.init_lstm, key=key()),
            (3, 0),
            "num_hidden must .* 1, got 0",
        ),
        (recurrent.rnn, (RNN, WIDE[None]), r"of shape \(4, 4\), got \(3, 4\)"),
        (recurrent.lstm, (RNN, X[None]), r"of shape \(3, 16\), got \(3, 4\)"),
        (weight_decay.linreg, (LINE, WIDE), r"\(2, 4\) does not fit .* \(3, 1\)"),
        (squared_loss, (ONE, X[:, 0]), r"got \(20, 1\) and \(20,\)"),
        (decay, (LINE, (X, X[:, 0]), 3.0), r"got \(5, 1\) and \(5,\)"),
        (statistics.mean_interval, (ROW[:1],), r"2 runs, all of them finite, got \[0"),
        (statistics.mean_interval, (ROW[:0],), r"2 runs, all of them finite, got \[\]"),
        (statistics.mean_interval, (ROW * np.nan,), r"all of them finite, got \[nan"),
        (statistics.equivalence_p, (ROW, ROW[:1], 1.0), "need at least 2 runs"),
        (statistics.folds_interval, (ROW[:, None],), "need at least 2 folds, got 1"),
        (statistics.conformal_radius, (np.ones(8), 0.9), "8 residuals are too few for"),
        (statistics.conformal_radius, (ROW, np.nan), "a coverage of nan"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, args, message):
    with one_line((ValueError, KeyError), message):
        call(*args)


NO_RATE, NO_SHARE = (-0.1, 1.5, np.nan), (-0.1, 1.0, np.nan)
NEGATIVE = (-1.0, -1, np.nan, np.inf)


@pytest.mark.parametrize(
    ("call", "values", "line"),
    [
        (partial(dropout.dropout_layer, X, key=key()), NO_RATE, r"in \[0, 1\]"),
        (partial(dropout.mask_and_rescale, X, key=key()), NO_SHARE, r"in \[0, 1\)"),
        (partial(l2_sgd, 0.1, 0.0), NO_SHARE, r"momentum must be in \[0, 1\)"),
        (partial(l2_sgd, 0.1), NEGATIVE, "weight_decay must be finite and at least 0"),
        (partial(l2_adam, 0.1), NEGATIVE, "weight_decay must be finite and at least 0"),
        (partial(decay, LINE, (X, ONE)), NEGATIVE, "lambd must be .* at least 0"),
        (initialization.normal, (-0.1, np.nan, np.inf), "std must be at least 0 .*"),
        (partial(folds.k_fold, 10), (-1, 0, 1, 11), "k must be in 2 to the 10 rows"),
        (sharding.make_mesh, (0,), "must be positive and a multiple of 1, .*"),
        (sharding.make_mesh, (9,), "must be at most 1, as many cpu devices as .*"),
        (partial(draw, noise=0.1), (0, -1), "num_rows must be at least 1"),
        (lambda noise: draw(3, noise), (-0.1, np.nan), "a standard deviation >= 0"),
        (partial(statistics.mean_interval, ROW), (95.0, 1.0, 0.0, np.nan), "0 and 1"),
        (partial(statistics.equivalence_p, ROW, ROW), (-1.0,), "must be positive"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_value(call, values, line):
    for value in values:
        with one_line(ValueError, f"{line}, got {value}"):
            call(value)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("epochs", each(epochs=0)["fit"]),
        ("epochs", each(epochs=0)["fold"]),
        ("batch_size", lambda: folds.steps_per_epoch(np.ones(3, bool), 0)),
        ("num_members", lambda: population.seed_keys(0, 0)),
        ("num_inputs", lambda: weight_decay.init_params(0, key=key())),
        ("width", lambda: deep_mlp.init_params(5, 0, 2, 3, he_normal, key=key())),
        ("num_hidden", lambda: backprop.init_params(5, 0, 3, key=key())),
        ("fan_in", lambda: initialization.torch_bias(0)),
        ("num_factors", lambda: product_log_norms(0, 3, 1.0, key=key())),
    ],
)
def test_a_count_of_0_is_refused_by_its_name(name, call):
    with one_line(ValueError, f"{name} must be at least 1, got 0"):
        call()


@pytest.mark.parametrize("rate", [-0.2, 1.5, float("nan")])
@pytest.mark.parametrize("train", [True, False])
def test_the_flax_module_refuses_a_rate_that_is_no_probability(rate, train):
    model = DropoutMLP(hidden=(4,), rates=(rate,))
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got {rate}"):
        model.init(key(), X, train=train)
    with pytest.raises(ValueError, match="2 hidden layers, got 1"):
        DropoutMLP(rates=(0.1,)).init(key(), X)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.uint32])
def test_the_loss_of_a_label_that_is_no_class_is_nan(dtype):
    wrong = jnp.array([0, -1, 3, 255, 2]).astype(dtype)
    loss = jax.jit(classification_metrics)(jnp.zeros((5, 3)), wrong)["loss"]
    np.testing.assert_array_equal(np.isnan(loss), [False, True, True, True, False])
    assert np.isnan(backprop.cross_entropy(jnp.zeros((5, 3)), wrong))
    sound = backprop.cross_entropy(jnp.zeros((2, 3)), wrong[::4])
    np.testing.assert_allclose(sound, np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "value"), [(jnp.float16, 100.0), (jnp.bfloat16, 1.0), (jnp.float16, 1.0)]
)
def test_the_mean_of_a_metric_in_half_precision_is_that_of_float32(dtype, value):
    rows = jnp.full(2000, value, dtype).at[:2].set(0)

    def metrics_fn(params, x, labels, *, key):
        return {"loss": x * params}

    data, one = (rows, rows), jnp.ones((), dtype)
    sizes = {"metrics_fn": metrics_fn, "batch_size": 1000}
    mean = training.evaluate(one, data, **sizes)
    np.testing.assert_allclose(mean["loss"], 0.999 * value, rtol=1e-6)
    state = training.init_state(one, optax.sgd(0.0))
    given = sizes | {"optimizer": optax.sgd(0.0)}
    _, mean = training.train_epoch(state, data, key=key(), **given)
    np.testing.assert_allclose(mean["loss"], 0.999 * value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_error_of_prices_in_half_precision_is_that_of_float32(dtype):
    prices = jnp.array([50_000.0, 25_000.0])
    predictions = (1.01 * prices).astype(dtype)
    expected = log_rmse(predictions.astype(float), prices)
    assert log_rmse(predictions, prices.astype(dtype)) > 0
    np.testing.assert_allclose(log_rmse(predictions, prices), expected)


def test_a_fit_that_would_skip_rows_for_want_of_steps_is_nan():
    fit = partial(folds.fit, jnp.eye(3), (X, LABELS), jnp.arange(20) < 9)
    given = {"metrics_fn": metrics_fn, "optimizer": SGD, "epochs": 1, "batch_size": 4}
    for steps, skips in ((2, True), (3, False)):
        params, _ = fit(**given, steps=steps, watch=False, key=key())
        assert np.isnan(params).all() == skips


def test_a_fit_on_all_rows_has_no_nan_and_validates_on_none():
    fit = partial(folds.fit, jnp.eye(3), (X, LABELS), jnp.ones(20, bool))
    given = {"metrics_fn": metrics_fn, "optimizer": SGD, "epochs": 2, "batch_size": 8}
    with jax.debug_nans(True):  # and one more step than there are batches
        _, history = fit(**given, steps=4, watch=True, key=key())
    assert np.isfinite(history["train_loss"]).all()
    assert np.isposinf(history["valid_loss"]).all()


def test_a_layer_of_ones_own_takes_rows_and_single_rows_under_vmap():
    layer, x = MyLinear(3, 2), jax.random.normal(key(), (7, 3))
    variables = layer.init(key(), x)
    mapped = jax.vmap(partial(layer.apply, variables))(x)
    np.testing.assert_allclose(mapped, layer.apply(variables, x), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.991, 0.9999, 1 - 1e-6, 1 - 1e-7, 1 - 1e-9])
def test_near_1_an_entry_is_kept_as_often_as_its_scale_says(rate, monkeypatch):
    asked = []

    def bernoulli(key, p, shape):
        asked.append(p)
        return jnp.ones(shape, bool)

    monkeypatch.setattr(jax.random, "bernoulli", bernoulli)
    layers = jax.tree.map(jnp.ones_like, LAYERS)
    variables = {"params": dict(zip(("Dense_0", "Dense_1"), layers, strict=True))}
    flax = partial(DropoutMLP((3,), (rate,), 3).apply, variables, train=True)
    for drop, kept_before in (
        (lambda: dropout.dropout_layer(X, rate, key=key()), 1),
        (lambda: dropout.mask_and_rescale(X, rate, key=key()), 1),
        (lambda: dropout.mlp(layers, X, (rate,), key=key()) - 1, 12),
        (lambda: flax(X, rngs={"dropout": key()}) - 1, 12),
    ):
        scale = drop()[0, 0] / kept_before
        kept = asked.pop()
        # A random number is a multiple of 2**-23, so it is below `kept` that often.
        assert kept * 2**23 == np.ceil((1 - rate) * 2**23) > 0
        np.testing.assert_allclose(scale * kept, 1, rtol=1e-6)


@pytest.mark.parametrize("number", [np.float64, jnp.float32])
def test_the_type_of_a_rate_or_scale_does_not_change_bfloat16(number):
    half, low = number(0.5), jnp.bfloat16
    x = jnp.ones((4, 3), low)
    layers = jax.tree.map(lambda a: a.astype(low), LAYERS)
    results = {
        "layer": dropout.mask_and_rescale(x, half, key=key()),
        "mlp": dropout.mlp(layers, x, (half,), key=key()),
    }
    if number is not jnp.float32:  # an array is no rate of these
        variables = DropoutMLP((4,), (0.5,), 2).init(key(), x)
        variables = jax.tree.map(lambda a: a.astype(low), variables)
        model, rngs = DropoutMLP((4,), (half,), 2), {"dropout": key()}
        results |= {
            "python": dropout.dropout_layer(x, half, key=key()),
            "Flax": model.apply(variables, x, train=True, rngs=rngs),
            "normal": initialization.normal(half)(key(), (2, 3), low),
            "constant": initialization.constant(half)(key(), (2, 3), low),
            "uniform": initialization.sparse_uniform(key(), (2, 3), low, bound=half),
            "data": linear_regression(x.T[:, :1], half, 4, noise=half, key=key()),
        }
    for leaf in jax.tree.leaves(results):
        assert leaf.dtype == low


def value_fn_of(params, x, labels, *, key):
    return {"loss": jnp.square(x @ params - labels).sum(axis=1)}


@pytest.mark.parametrize(
    "optimizer",
    [optax.lbfgs(), optax.chain(optax.sgd(0.3), optax.contrib.reduce_on_plateau())],
    ids=["L-BFGS", "plateau"],
)
def test_an_optimiser_that_wants_the_loss_and_the_function_gets_them(optimizer):
    x = jax.random.normal(key(), (32, 3))
    data = x, x @ jnp.eye(3)
    given = {"metrics_fn": value_fn_of, "optimizer": optimizer, "batch_size": 32}
    last, _ = training.fit(jnp.zeros((3, 3)), data, epochs=20, key=key(), **given)
    np.testing.assert_allclose(last, np.eye(3), atol=0.02)
