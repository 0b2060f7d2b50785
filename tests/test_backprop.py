"""Forward and backward propagation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax import backprop


def problem(hidden=4, batch=6):
    params = backprop.init_params(5, hidden, 3, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch, 5))
    return params, x, jnp.arange(batch) % 3


def objective(params, x, labels):
    return backprop.forward(params, x, labels, 0.3).J


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
    found, expected = (
        backprop.backward(params, x, labels, 0.3, passed) for passed in (spoilt, kept)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_checkpoint_keeps_arguments_only_and_its_policy_exactly_the_products():
    args = params, x, labels = problem(16, 32)
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
