"""Training: every row once, one trace, PyTorch's means, keys by step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from ch4jax import training


def linear(params, x, y, *, key):
    """Squared error of `x @ w`; in training, of inputs with noise from the key."""
    if key is not None:
        x = x + 0.1 * jax.random.normal(key, x.shape)
    return {"loss": (x @ params - y) ** 2}


@pytest.fixture
def data():
    x = jax.random.normal(jax.random.key(0), (50, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5])


SGD, ADAM = optax.sgd(0.01), optax.adam(0.1)
train_epoch = partial(training.train_epoch, metrics_fn=linear, batch_size=16)


def start(optimizer):
    return training.init_state(jnp.zeros(3), optimizer)


@pytest.mark.parametrize(
    ("rows", "batch_size"), [(1, 1), (1, 9), (9, 1), (9, 9), (9, 10), (10, 4), (97, 32)]
)
def test_every_row_is_in_exactly_one_batch(rows, batch_size):
    order, real = training.batch_rows(rows, batch_size, key=jax.random.key(0))
    assert order.shape == real.shape == (-(-rows // batch_size), batch_size)
    np.testing.assert_array_equal(np.sort(order[real]), np.arange(rows))


def test_shuffled_orders_differ_between_keys():
    keys = jax.random.key(0), jax.random.key(1)
    first, second = (training.batch_rows(1000, 10, key=key)[0] for key in keys)
    assert (first != second).mean() > 0.9


def test_training_and_evaluation_are_traced_once_however_many_epochs_run(data):
    traces = []

    def counting(params, x, y, *, key):
        traces.append(key is None)
        return linear(params, x, y, key=key)

    state, counted = start(SGD), {"metrics_fn": counting, "batch_size": 16}
    for _ in range(5):  # the last batch has two rows
        key = jax.random.key(1)
        state, _ = train_epoch(state, data, optimizer=SGD, key=key, **counted)
        training.evaluate(state.params, data, **counted)
    assert state.step == 20
    assert traces == [False, True]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 2048])
def test_evaluation_is_the_mean_over_all_rows_whatever_the_batch(data, batch_size):
    params = jnp.array([0.5, 0.5, 0.5])
    mean = training.evaluate(params, data, metrics_fn=linear, batch_size=batch_size)
    x, y = (np.asarray(array, np.float64) for array in data)
    expected = ((x @ np.full(3, 0.5) - y) ** 2).mean()
    np.testing.assert_allclose(mean["loss"], expected, rtol=1e-5)


def test_a_fit_is_its_epochs_one_by_one(data):
    fit = partial(
        training.fit, metrics_fn=linear, optimizer=ADAM, epochs=3, batch_size=16
    )
    last, path = jax.jit(fit)(jnp.zeros(3), data, key=jax.random.key(4))
    state = start(ADAM)
    for params in path:
        state, _ = train_epoch(state, data, optimizer=ADAM, key=jax.random.key(4))
        np.testing.assert_allclose(params, state.params, rtol=1e-6)
    np.testing.assert_array_equal(last, path[-1])


def test_a_state_that_was_trained_from_cannot_be_used_again_but_its_params_can(data):
    params = jnp.ones(3)
    old = training.init_state(params, ADAM)
    new, _ = train_epoch(old, data, optimizer=ADAM, key=jax.random.key(0))
    for leaf in jax.tree.leaves(old):
        with pytest.raises(RuntimeError, match="deleted"):
            np.asarray(leaf)
    np.testing.assert_array_equal(params, 1)
    assert np.isfinite(new.params).all()


def test_an_optimizer_whose_state_shares_the_parameters_can_train(data):
    optimizer = optax.contrib.schedule_free(SGD, 0.01)
    given = {"optimizer": optimizer, "key": jax.random.key(0)}
    state, _ = train_epoch(start(optimizer), data, **given)
    assert state.step == 4


def test_an_epoch_exports_and_comes_back_with_the_same_numbers(data):
    pytest.importorskip("flatbuffers")
    register = export.register_namedtuple_serialization
    register(optax.EmptyState, serialized_name="optax.EmptyState")  # it is not ours

    def epoch(state, data):
        return train_epoch(state, data, optimizer=SGD, key=jax.random.key(0))

    exported = export.export(jax.jit(epoch), platforms=["cpu", "cuda", "tpu"])
    again = export.deserialize(exported(start(SGD), data).serialize())
    ours, theirs = epoch(start(SGD), data), again.call(start(SGD), data)
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)


def test_each_token_of_a_sequence_is_a_row_and_a_label_that_is_no_class_is_nan():
    logits, labels = jnp.zeros((2, 2, 3)), jnp.array([[0, -1], [2, 5]])
    loss = training.classification_metrics(logits, labels)["loss"]
    expected = [[np.log(3), np.nan], [np.log(3), np.nan]]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_cross_entropy_and_accuracy_are_the_closed_forms():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))
    metrics = training.classification_metrics(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(metrics["loss"], -np.log([0.7, 0.3]), rtol=1e-6)
    np.testing.assert_array_equal(metrics["accuracy"], [1.0, 0.0])
