"""The plain recurrent network and the LSTM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax.recurrent import Params, init_lstm, init_rnn, lstm, rnn


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


@pytest.mark.parametrize(("init", "layer"), [(init_rnn, rnn), (init_lstm, lstm)])
def test_a_hundred_steps_are_no_longer_a_program_than_three(init, layer):
    params = init(3, 4, key=jax.random.key(0))

    def lines(steps):
        program = jax.jit(layer).lower(params, jnp.zeros((2, steps, 3))).as_text()
        return len(program.splitlines())

    assert lines(3) == lines(100)


def test_forget_bias_moves_the_forget_gates_and_nothing_else():
    plain, opened = (
        init_lstm(3, 4, forget_bias=bias, key=jax.random.key(0)) for bias in (0.0, 5.0)
    )
    moved = [np.asarray(b - a).round(5) for a, b in zip(plain, opened, strict=True)]
    assert not np.any(moved[0]) | np.any(moved[1])
    np.testing.assert_array_equal(moved[2], np.repeat([0, 5, 0, 0], 4))
