"""The plain recurrent network and the LSTM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support import relative_difference

from ch4jax.recurrent import Params, init_lstm, init_rnn, lstm, rnn

BOTH = pytest.mark.parametrize(("init", "layer"), [(init_rnn, rnn), (init_lstm, lstm)])


def problem(init, steps=7):
    params = init(3, 4, key=jax.random.key(0))
    return params, jnp.asarray(np.random.default_rng(0).normal(size=(2, steps, 3)))


def flax_cell(params):
    """Return Flax's parameters of the same cell, and the cell."""
    w, u, b = params
    if w.shape[1] == 4:
        return {"i": {"kernel": w, "bias": b}, "h": {"kernel": u}}, nn.SimpleCell(
            4, param_dtype=float
        )
    gates = zip("ifgo", *(jnp.split(p, 4, axis=-1) for p in params), strict=True)
    cell = {}
    for name, w, u, b in gates:
        cell |= {f"i{name}": {"kernel": w}, f"h{name}": {"kernel": u, "bias": b}}
    return cell, nn.OptimizedLSTMCell(4, param_dtype=float)


@BOTH
def test_the_layer_from_scratch_is_flaxs(init, layer, x64):
    params, x = problem(init)
    cell, module = flax_cell(params)
    reference = nn.RNN(module).apply({"params": {"cell": cell}}, x)
    assert relative_difference(layer(params, x), reference) <= 1e-12


def gradient_at_zero(layer, params, steps):
    """Return the derivative of the last output in each input; all inputs are zero."""
    x = jnp.zeros((1, steps, 1))
    return jax.grad(lambda x: layer(params, x)[0, -1, 0])(x)[0, ::-1, 0]


def test_back_through_a_plain_network_a_gradient_meets_a_kernel_a_step(x64):
    params = Params(jnp.full((1, 1), 0.3), jnp.full((1, 1), 0.6), jnp.zeros(1))
    expected = 0.3 * 0.6 ** np.arange(20)  # tanh' is 1 at zero
    np.testing.assert_allclose(gradient_at_zero(rnn, params, 20), expected)


@pytest.mark.parametrize("forget", [-1.0, 0.0, 5.0])
def test_back_through_an_lstm_a_gradient_meets_a_forget_gate_a_step(forget, x64):
    w, b = jnp.array([[0.5, 0.5, 0.3, 0.5]]), jnp.array([0.0, forget, 0.0, 0.0])
    gate = 1 / (1 + np.exp(-forget))
    expected = 0.5 * 0.3 * 0.5 * gate ** np.arange(20)  # i = o = 1/2
    params = Params(w, jnp.zeros((1, 4)), b)
    np.testing.assert_allclose(gradient_at_zero(lstm, params, 20), expected)


@BOTH
def test_an_output_does_not_depend_on_later_inputs(init, layer):
    params, x = problem(init)
    before, after = layer(params, x), layer(params, x.at[:, 4:].add(1.0))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).all()


@BOTH
def test_a_hundred_steps_are_no_longer_a_program_than_three(init, layer):
    def lines(steps):
        return len(jax.jit(layer).lower(*problem(init, steps)).as_text().splitlines())

    assert lines(3) == lines(100)


def test_forget_bias_moves_the_forget_gates_and_nothing_else():
    plain, opened = (
        init_lstm(3, 4, forget_bias=bias, key=jax.random.key(0)) for bias in (0.0, 5.0)
    )
    moved = [np.asarray(b - a).round(5) for a, b in zip(plain, opened, strict=True)]
    assert not np.any(moved[0]) | np.any(moved[1])
    np.testing.assert_array_equal(moved[2], np.repeat([0, 5, 0, 0], 4))
