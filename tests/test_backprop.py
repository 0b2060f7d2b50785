"""Facts about forward and backward propagation by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from support import relative_difference

from ch4jax import backprop


def problem(seed=0, inputs=5, hidden=4, classes=3, batch=6):
    # NumPy draws: JAX would compile its generator for each new shape.
    rng = np.random.default_rng(seed)
    params = backprop.Params(
        jnp.asarray(rng.normal(size=(inputs, hidden)) / np.sqrt(inputs)),
        jnp.asarray(rng.normal(size=(hidden, classes)) / np.sqrt(hidden)),
    )
    x = jnp.asarray(rng.normal(size=(batch, inputs)))
    return params, x, jnp.asarray(rng.integers(0, classes, batch))


def objective(x, labels, lambd):
    return lambda params: backprop.forward(params, x, labels, lambd).J


@jax.jit
def by_hand(params, x, labels, lambd):
    kept = backprop.forward(params, x, labels, lambd)
    return backprop.backward(params, x, labels, lambd, kept)


@pytest.mark.parametrize("seed", range(10))
def test_gradients_by_hand_are_those_of_jax_grad(seed, x64):
    rng = np.random.default_rng(seed)
    inputs, hidden, classes, batch = rng.integers(1, 40, 4).tolist()
    lambd = rng.uniform(0, 3)
    args = *problem(seed, inputs, hidden, classes + 1, batch), lambd
    hand, reference = jax.jit(lambda *a: (by_hand(*a), backprop.autodiff(*a)))(*args)
    for name, expected in reference._asdict().items():
        assert getattr(hand, name).dtype == np.float64, name
        assert relative_difference(getattr(hand, name), expected) <= 1e-12, name


def test_gradients_by_hand_are_those_of_finite_differences(x64):
    params, x, labels = problem()
    hand = by_hand(params, x, labels, 0.3)
    slope = partial(
        backprop.directional_difference, objective(x, labels, 0.3), params, step=1e-5
    )
    flat, unflatten = ravel_pytree(params)
    slopes = jax.vmap(lambda unit: slope(unflatten(unit)))(jnp.eye(flat.size))
    exact, _ = ravel_pytree((hand.w1, hand.w2))
    np.testing.assert_allclose(slopes, exact, atol=1e-9)


def test_a_central_difference_has_a_quarter_of_the_error_at_half_the_step(x64):
    params, x, labels = problem()
    direction = jax.tree.map(jnp.ones_like, params)
    hand = by_hand(params, x, labels, 0.3)
    exact = hand.w1.sum() + hand.w2.sum()
    fn = objective(x, labels, 0.3)
    errors = [
        backprop.directional_difference(fn, params, direction, step) - exact
        for step in (2e-3, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-3)


def test_the_forward_pass_is_that_of_the_book(x64):
    params, x, labels = problem()
    kept = backprop.forward(params, x, labels, 0.3)
    w1, w2, x, labels = (np.asarray(a) for a in (*params, x, labels))
    z = x @ w1
    o = np.tanh(z) @ w2
    p = np.exp(o) / np.exp(o).sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(6), labels]).mean()
    penalty = 0.15 * (np.sum(w1**2) + np.sum(w2**2))
    expected = backprop.Forward(z, np.tanh(z), o, loss, penalty, loss + penalty)
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(kept, name), value, rtol=1e-13, err_msg=name)


def test_the_penalty_adds_lambd_times_the_weights_and_nothing_else(x64):
    params, x, labels = problem()
    without, with_it = (by_hand(params, x, labels, lambd) for lambd in (0.0, 2.0))
    np.testing.assert_allclose(with_it.w1, without.w1 + 2 * params.w1, rtol=1e-13)
    np.testing.assert_allclose(with_it.w2, without.w2 + 2 * params.w2, rtol=1e-13)
    for name in ("J", "L", "s", "o", "h", "z"):
        np.testing.assert_array_equal(getattr(with_it, name), getattr(without, name))


def test_the_backward_pass_needs_of_the_forward_pass_only_h_and_o():
    params, x, labels = problem()
    kept = backprop.forward(params, x, labels, 0.3)
    lost = kept._replace(z=kept.z * jnp.nan, L=jnp.nan * kept.L, s=jnp.nan * kept.s)
    found = backprop.backward(params, x, labels, 0.3, lost)
    for a, b in zip(found, by_hand(params, x, labels, 0.3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_checkpoint_keeps_arguments_only_and_its_policy_exactly_the_products():
    params, x, labels = problem(0, 5, 16, 3, 32)

    def fn(params, x, labels):
        return backprop.forward(params, x, labels, 0.3).J

    plain = backprop.saved_bytes(fn, params, x, labels)
    kept = backprop.forward(params, x, labels, 0.3)
    assert plain.intermediates >= kept.h.nbytes + kept.o.nbytes

    assert backprop.saved_bytes(jax.checkpoint(fn), params, x, labels) == (
        sum(leaf.nbytes for leaf in jax.tree.leaves((params, x, labels))),
        0,
    )
    policy = jax.checkpoint_policies.dots_saveable
    products = jax.checkpoint(fn, policy=policy)
    saved = backprop.saved_bytes(products, params, x, labels)
    assert saved.intermediates == kept.z.nbytes + kept.o.nbytes


def test_saved_intermediates_grow_with_the_batch_and_arguments_count_once():
    def fn(params, x, labels):
        return backprop.forward(params, x, labels, 0.3).J

    saved = [
        backprop.saved_bytes(fn, *problem(0, 5, 4, 3, batch)) for batch in (10, 20, 30)
    ]
    first, second, third = (s.intermediates for s in saved)
    assert third - second == second - first > 0
    params, x, labels = problem(0, 5, 4, 3, 10)
    everything = sum(leaf.nbytes for leaf in jax.tree.leaves((params, x, labels)))
    assert 0 < saved[0].arguments <= everything


def test_checkpoint_computes_again_what_it_did_not_keep_and_changes_no_gradient(x64):
    params, x, labels = problem()
    fn = objective(x, labels, 0.3)

    def products(fn):
        return str(jax.make_jaxpr(jax.grad(fn))(params)).count("dot_general[")

    assert products(fn) == 5  # two forward, three backward: x needs no gradient
    assert products(jax.checkpoint(fn)) == 7
    a, b = jax.grad(fn)(params), jax.grad(jax.checkpoint(fn))(params)
    np.testing.assert_allclose(a.w1, b.w1, rtol=1e-13)
    np.testing.assert_allclose(a.w2, b.w2, rtol=1e-13)


def test_a_new_coefficient_is_no_new_program():
    traces = []

    @jax.jit
    def step(params, x, labels, lambd):
        traces.append(None)
        return by_hand(params, x, labels, lambd)

    for lambd in (0.0, 0.1, 3.0):
        step(*problem(), lambd)
    assert len(traces) == 1


def test_shapes_that_do_not_fit_are_named_both():
    params, x, labels = problem()
    with pytest.raises(ValueError, match=r"x of shape \(6, 4\).*w1 of shape \(5, 4\)"):
        backprop.forward(params, x[:, 1:], labels, 0.0)
    broken = params._replace(w2=params.w2[1:])
    with pytest.raises(ValueError, match=r"w1 of shape \(5, 4\).*w2 of shape \(3, 3\)"):
        backprop.forward(broken, x, labels, 0.0)


def test_a_size_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"at least 1, got \(5, 0, 3\)"):
        backprop.init_params(5, 0, 3, key=jax.random.key(0))


def test_weights_have_the_variance_of_one_over_inputs():
    params = backprop.init_params(300, 200, 100, key=jax.random.key(0))
    for w in params:
        expected = 1 / w.shape[0]
        standard_error = expected * np.sqrt(2 / w.size)
        assert abs(float(w.var()) - expected) <= 5 * standard_error
