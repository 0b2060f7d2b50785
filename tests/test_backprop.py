"""Forward and backward propagation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def objective(params, x, labels):
    return backprop.forward(params, x, labels, 0.3).J


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


def test_a_central_difference_has_a_quarter_of_the_error_at_half_the_step(x64):
    def error(step):
        one = jnp.ones(())
        return backprop.directional_difference(jnp.sin, one, one, step) - jnp.cos(one)

    assert abs(error(1e-3)) < 1e-6
    assert error(2e-3) / error(1e-3) == pytest.approx(4, rel=1e-3)


def test_the_backward_pass_needs_of_the_forward_pass_only_h_and_o():
    params, x, labels = problem()
    kept = backprop.forward(params, x, labels, 0.3)
    spoilt = kept._replace(z=kept.z * jnp.nan, L=jnp.nan * kept.L, s=jnp.nan * kept.s)
    found = backprop.backward(params, x, labels, 0.3, spoilt)
    for a, b in zip(found, by_hand(params, x, labels, 0.3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_checkpoint_keeps_arguments_only_and_its_policy_exactly_the_products():
    args = params, x, labels = problem(0, 5, 16, 3, 32)
    kept = backprop.forward(params, x, labels, 0.3)
    plain = backprop.saved_bytes(objective, *args)
    numpys = jax.tree.map(np.asarray, params)
    assert backprop.saved_bytes(objective, numpys, x, labels) == plain
    arguments = sum(leaf.nbytes for leaf in jax.tree.leaves(args))
    assert 0 < plain.arguments <= arguments
    assert plain.intermediates >= kept.h.nbytes + kept.o.nbytes
    nothing_kept = backprop.saved_bytes(jax.checkpoint(objective), *args)
    assert nothing_kept == (arguments, 0)
    policy = jax.checkpoint_policies.dots_saveable
    products = backprop.saved_bytes(jax.checkpoint(objective, policy=policy), *args)
    assert products.intermediates == kept.z.nbytes + kept.o.nbytes
