"""Weight decay: the penalty, its optimisers, and scratch and Flax side by side."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support import largest_difference, leaves, relative_difference

from ch4jax import training, weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.parameters import freeze
from ch4jax.weight_decay import (
    concise_settings,
    init_params,
    kernel_mask,
    l2_adam,
    l2_sgd,
    mean_loss,
    mse,
    train,
)


def problem(rows=20, inputs=200):
    """Return data, parameters and a key to shuffle with."""
    data_key, init_key, bias_key, key = jax.random.split(jax.random.key(0), 4)
    w = jnp.full((inputs, 1), 0.01)
    params = init_params(inputs, key=init_key)
    params["bias"] = jax.random.normal(bias_key, (1,))
    return linear_regression(w, 0.05, rows, key=data_key), params, key


# analytic


def test_the_mean_loss_is_the_mean_of_half_the_squared_errors():
    params = {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.5])}
    x = jnp.array([[1.0, 1.0], [3.0, 0.0]])  # the predictions are 1.5 and 6.5
    assert mean_loss(params, (x, jnp.array([[0.5], [8.5]]))) == 1.25


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_without_data_each_step_shrinks_the_weights_by_rate_times_lambda(
    batch_size, x64
):
    _, params, key = problem(inputs=4)
    params["bias"] = jnp.zeros(1)
    nothing = jnp.zeros((6, 4)), jnp.zeros((6, 1))
    sizes = {"epochs": 5, "batch_size": batch_size}
    last, path = train(params, nothing, 3.0, learning_rate=0.1, key=key, **sizes)
    steps = 5 * 6 // batch_size
    assert relative_difference(last["kernel"], 0.7**steps * params["kernel"]) <= 1e-14
    assert last["bias"] == 0
    assert path["kernel"].shape == (5, 4, 1)
    np.testing.assert_array_equal(path["kernel"][-1], last["kernel"])


# scratch and Flax


@pytest.mark.parametrize(
    ("lambd", "batch_size", "mapped"),
    [(0.0, 5, True), (3.0, 6, True), (3.0, 5, False)],
)
def test_scratch_and_concise_agree_for_100_epochs_if_mapped(
    lambd, batch_size, mapped, x64
):
    data, params, key = problem()
    sizes = {"epochs": 100, "batch_size": batch_size}
    ours, _ = train(params, data, lambd, key=key, **sizes)
    settings = concise_settings(0.003, lambd) if mapped else (0.003, lambd)
    fit = partial(
        training.fit, metrics_fn=mse, optimizer=l2_sgd(*settings), key=key, **sizes
    )
    theirs, _ = jax.jit(fit)({"params": params}, data)
    difference = largest_difference(leaves(ours, theirs["params"]))
    assert difference <= 1e-12 if mapped else difference > 1e-3
    assert largest_difference(leaves(params, ours)) > 0.1


# invariants


def test_the_mask_picks_what_holds_weights_by_name_at_any_depth():
    matrix, vector = jnp.ones((2, 2)), jnp.ones(2)
    dense = {"kernel": matrix, "bias": vector}
    params = {
        "Dense_0": dense,
        "kernel_like": [dense, {"scale": vector}],
        "MyLinear_0": {"weight": matrix, "bias": vector},
        "embedding": matrix,
    }
    picked = {"kernel": True, "bias": False}
    assert kernel_mask(params) == {
        "Dense_0": picked,
        "kernel_like": [picked, {"scale": False}],
        "MyLinear_0": {"weight": True, "bias": False},
        "embedding": True,
    }


@pytest.mark.parametrize("box", [nnx.Param, lambda a: nn.Partitioned(a, ("a", "b"))])
def test_the_mask_looks_through_boxes(box):
    params = {"kernel": box(jnp.ones((2, 2))), "bias": box(jnp.ones(2))}
    optimizer = l2_sgd(1.0, 0.5)
    for tree in params, nnx.State(params):
        assert jax.tree.leaves(kernel_mask(tree)) == [False, True]
        nothing = jax.tree.map(jnp.zeros_like, tree)
        step, _ = optimizer.update(nothing, optimizer.init(tree), tree)
        bias, kernel = jax.tree.leaves(step)
        np.testing.assert_array_equal(bias, 0)
        np.testing.assert_array_equal(kernel, -0.5)


@pytest.mark.parametrize("patterns", [["kernel"], ["*"]])
def test_all_that_decays_may_be_frozen(patterns):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = freeze(l2_adam(0.1, 0.5), params, patterns)
    step, _ = optimizer.update(params, optimizer.init(params), params)
    assert not step["kernel"].any()
    assert step["bias"].all() == (patterns == ["kernel"])


def test_without_momentum_sgd_keeps_no_state():
    assert not jax.tree.leaves(l2_sgd(0.1, 1.0).init({"kernel": jnp.ones((2, 1))}))


# system


def test_one_program_serves_every_lambda_and_learning_rate():
    data, params, key = problem(inputs=11)
    train(params, data, 0.0, epochs=2, key=key)
    programs = weight_decay._train._cache_size()
    for lambd, rate in ((3.0, 0.001), (10.0, 0.01)):
        train(params, data, lambd, learning_rate=rate, epochs=2, key=key)
    assert weight_decay._train._cache_size() == programs
