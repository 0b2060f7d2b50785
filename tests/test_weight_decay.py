"""Weight decay: the penalty, its optimisers, and scratch and Flax side by side."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import largest_difference, relative_difference

from ch4jax import training, weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.weight_decay import (
    concise_settings,
    init_params,
    kernel_mask,
    l2_adam,
    l2_penalty,
    l2_sgd,
    linreg,
    mean_loss,
    model,
    mse,
    squared_loss,
    train,
)


def problem(rows=20, inputs=200, seed=0):
    """Return data, parameters and a key to shuffle with."""
    data_key, init_key, bias_key, key = jax.random.split(jax.random.key(seed), 4)
    w = jnp.full((inputs, 1), 0.01)
    params = init_params(inputs, key=init_key)
    params["bias"] = jax.random.normal(bias_key, (1,))
    return linear_regression(w, 0.05, rows, key=data_key), params, key


def pairs(ours, theirs):
    return zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)


# analytic


def test_predictions_and_losses_are_those_of_a_sum_done_by_hand():
    params = {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.5])}
    x = jnp.array([[1.0, 1.0], [3.0, 0.0]])
    predictions = linreg(params, x)
    np.testing.assert_array_equal(predictions, [[1.5], [6.5]])
    y = jnp.array([[0.5], [8.5]])
    np.testing.assert_array_equal(squared_loss(predictions, y), [[0.5], [2.0]])
    assert mean_loss(params, (x, y)) == 1.25
    assert l2_penalty(params["kernel"]) == 2.5
    np.testing.assert_array_equal(
        mse({"params": params}, x, y, key=None)["loss"], [1, 4]
    )


def test_the_gradient_of_the_penalty_is_the_weights():
    w = jax.random.normal(jax.random.key(0), (7, 1))
    np.testing.assert_array_equal(jax.grad(l2_penalty)(w), w)


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


def test_on_whole_batches_it_ends_at_the_solution_of_ridge_regression(x64):
    (x, y), params, key = problem(rows=12, inputs=5)
    lambd, rows = 0.5, len(x)
    last, _ = train(
        params, (x, y), lambd, learning_rate=0.2, epochs=1000, batch_size=rows, key=key
    )
    centred, labels = np.asarray(x - x.mean(axis=0)[None, :]), np.asarray(y - y.mean())
    hessian = centred.T @ centred / rows + lambd * np.eye(5)  # the bias is free
    ridge = np.linalg.solve(hessian, centred.T @ labels / rows)
    assert relative_difference(last["kernel"], ridge) <= 1e-12
    bias = y.mean() - np.asarray(x.mean(axis=0)) @ ridge
    assert relative_difference(last["bias"], bias) <= 1e-12


def test_without_a_gradient_of_the_loss_lambda_cancels_in_adam_and_not_in_adamw(x64):
    params = {"params": init_params(50, key=jax.random.key(0))}
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(optimizer):
        return optimizer.update(zeros, optimizer.init(params), params)[0]["params"]

    kernel = params["params"]["kernel"]
    for lambd in (1.0, 100.0):
        l2 = step(l2_adam(0.01, lambd))["kernel"]
        np.testing.assert_allclose(l2, -0.01 * jnp.sign(kernel), rtol=1e-5)
        adamw = step(optax.adamw(0.01, weight_decay=lambd, mask=kernel_mask))["kernel"]
        assert relative_difference(adamw, -0.01 * lambd * kernel) <= 1e-14


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
    difference = largest_difference(pairs(ours, theirs["params"]))
    assert difference <= 1e-12 if mapped else difference > 1e-3
    assert largest_difference(pairs(params, ours)) > 0.1


def test_the_flax_model_has_the_names_and_the_function_of_scratch():
    variables = model.init(jax.random.key(0), jnp.zeros((1, 1000)))
    params = variables["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (1000, 1), "bias": (1,)}
    five_errors = 5 / np.sqrt(2 * 999)  # of a standard deviation of 1
    for start in (params, init_params(1000, key=jax.random.key(1))):
        assert abs(start["kernel"].std() - 1) <= five_errors
    x = jax.random.normal(jax.random.key(2), (3, 1000))
    np.testing.assert_allclose(
        model.apply(variables, x), linreg(params, x), rtol=1e-5, atol=1e-5
    )


# invariants


CASES = pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(l2_sgd(0.1, 3.0), id="SGD"),
        pytest.param(l2_sgd(0.1, 3.0, momentum=0.9), id="momentum"),
        pytest.param(l2_adam(0.1, 3.0), id="Adam"),
    ],
)


@CASES
def test_decay_leaves_a_bias_with_a_gradient_of_zero_alone(optimizer):
    start = params = {"params": {"kernel": jnp.ones((4, 1)), "bias": jnp.ones(1)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["params"]["bias"], start["params"]["bias"])
    assert (params["params"]["kernel"] != start["params"]["kernel"]).all()


def test_the_mask_picks_kernels_by_name_at_any_depth():
    dense = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params = {
        "params": {"Dense_0": dense, "kernel_like": [dense, {"scale": dense["bias"]}]}
    }
    picked = {"kernel": True, "bias": False}
    assert kernel_mask(params) == {
        "params": {"Dense_0": picked, "kernel_like": [picked, {"scale": False}]}
    }


@CASES
def test_a_mask_that_selects_nothing_is_refused(optimizer):
    with pytest.raises(
        ValueError, match=r"named 'kernel', got \['b'\], \['w'\]"
    ) as error:
        optimizer.init({"w": jnp.ones((2, 1)), "b": jnp.zeros(1)})
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="got no leaves"):
        optimizer.init({})


def test_momentum_zero_is_plain_sgd():
    params = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
    plain, rolling = (
        l2_sgd(0.1, 1.0, momentum).init(params) for momentum in (0.0, 0.9)
    )
    assert not jax.tree.leaves(plain)
    assert jax.tree.leaves(rolling)


def test_each_run_of_a_grid_of_lambdas_and_keys_is_the_run_alone(x64):
    data, params, _ = problem(inputs=10)
    lambdas = jnp.array([0.0, 0.5, 3.0])
    keys = jax.random.split(jax.random.key(7), 2)
    copies = [jax.random.clone(keys[j]) for j in range(2)]

    def run(lambd, key):
        return train(params, data, lambd, epochs=10, key=key)

    grid = jax.vmap(jax.vmap(run, (None, 0)), (0, None))(lambdas, keys)
    for i, lambd in enumerate([0.0, 0.5, 3.0]):
        for j in range(2):
            for ours, theirs in pairs(grid, run(lambd, copies[j])):
                assert relative_difference(ours[i, j], theirs) <= 1e-12
    kernels = grid[0]["kernel"]
    assert relative_difference(kernels[0, 0], kernels[2, 0]) > 1e-6
    assert relative_difference(kernels[0, 0], kernels[0, 1]) > 1e-6


# system


def test_one_program_serves_every_lambda_and_learning_rate(monkeypatch):
    traces = []

    def counted(w):
        traces.append(w)
        return l2_penalty(w)

    monkeypatch.setattr(weight_decay, "l2_penalty", counted)
    data, params, key = problem(inputs=11)
    train(params, data, 0.0, epochs=2, key=key)
    first = len(traces)
    assert first > 0
    for lambd in (3.0, 10.0):
        for rate in (0.001, 0.01):
            train(params, data, lambd, learning_rate=rate, epochs=2, key=key)
    assert len(traces) == first


# bad input


@pytest.mark.parametrize("value", [-1.0, -1, float("nan"), float("inf")])
def test_a_coefficient_that_is_no_finite_number_from_0_is_refused(value):
    data, params, key = problem(inputs=3)
    with pytest.raises(
        ValueError, match=f"lambd must be finite and at least 0, got {value}"
    ):
        train(params, data, value, key=key)
    for make in (l2_sgd, l2_adam):
        with pytest.raises(ValueError, match=f"weight_decay must be .*, got {value}"):
            make(0.1, value)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_outside_0_to_1_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got"):
        l2_sgd(0.1, 0.0, momentum)


def test_no_inputs_are_refused():
    with pytest.raises(ValueError, match="num_inputs must be at least 1, got 0"):
        init_params(0, key=jax.random.key(0))


def test_shapes_that_do_not_fit_are_named():
    (x, y), params, key = problem(inputs=3)
    with pytest.raises(ValueError, match=r"\(20, 2\), the kernel \(3, 1\)"):
        linreg(params, x[:, :2])
    with pytest.raises(ValueError, match=r"got \(20, 1\) and \(20,\)"):
        squared_loss(linreg(params, x), y[:, 0])
    with pytest.raises(ValueError, match=r"got \(5, 1\) and \(5,\)"):
        train(params, (x, y[:, 0]), 3.0, key=key)
