"""A plain recurrent network and an LSTM, one layer each (D2L 9.4 and 10.1).

Elman, "Finding Structure in Time", 1990; Hochreiter and Schmidhuber, "Long Short-Term
Memory", 1997, with the forget gate of Gers et al., 2000. In Flax they are
`nn.RNN(nn.SimpleCell(hidden))` and `nn.RNN(nn.OptimizedLSTMCell(hidden))`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.export import register_namedtuple_serialization
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax.initialization import torch_bias
from ch4jax.training.checks import check_counts


@partial(register_namedtuple_serialization, serialized_name="ch4jax.recurrent.Params")
class Params(NamedTuple):
    """Parameters of one layer.

    Its columns are the hidden units of an `rnn`; of an `lstm`, one after the other,
    those of the input gate, the forget gate, the candidate and the output gate, as in
    PyTorch.

    Attributes:
      input_kernel: applied to the input of a step.
      hidden_kernel: applied to the hidden state of the step before.
      bias: the sum of PyTorch's two.
    """

    input_kernel: Float[Array, "inputs columns"]
    hidden_kernel: Float[Array, "hidden columns"]
    bias: Float[Array, " columns"]


def init_rnn(num_inputs: int, num_hidden: int, *, key: PRNGKeyArray) -> Params:
    """Draw the parameters of an `rnn` as PyTorch does: U(-1/√hidden, 1/√hidden).

    Raises:
      ValueError: if a size is below 1.
    """
    return _init(num_inputs, num_hidden, num_hidden, key)


def init_lstm(
    num_inputs: int, num_hidden: int, *, forget_bias: float = 0.0, key: PRNGKeyArray
) -> Params:
    """Draw the parameters of an `lstm` as PyTorch does: U(-1/√hidden, 1/√hidden).

    Args:
      num_inputs: entries of the input of a step.
      num_hidden: units.
      forget_bias: added to the bias of the forget gates. Around 0 a cell keeps half of
        its value at each step, around 5 it keeps 0.993 of it (Tallec and Ollivier,
        "Can recurrent neural networks warp time?", 2018).
      key: consumed here.

    Raises:
      ValueError: if a size is below 1.
    """
    params = _init(num_inputs, num_hidden, 4 * num_hidden, key)
    forget = slice(num_hidden, 2 * num_hidden)
    return params._replace(bias=params.bias.at[forget].add(forget_bias))


def rnn(
    params: Params, x: Float[Array, "batch steps inputs"]
) -> Float[Array, "batch steps hidden"]:
    """Return the hidden state after each step: h = tanh(x w + h u + b), from h = 0.

    Raises:
      ValueError: if `x` and `params` do not fit; names their shapes.
    """
    projected, zeros = _project(params, x, 1)

    def step(h: Array, projected: Array) -> tuple[Array, Array]:
        h = jnp.tanh(projected + h @ params.hidden_kernel)
        return h, h

    return jax.lax.scan(step, zeros, projected)[1].swapaxes(0, 1)


def lstm(
    params: Params, x: Float[Array, "batch steps inputs"]
) -> Float[Array, "batch steps hidden"]:
    """Return the hidden state after each step; it and the cell start at zero.

    The cell is a sum, c = f c + i g, where `rnn` has a product: back through k steps a
    gradient is multiplied by k forget gates f, not by k kernels.

    Raises:
      ValueError: if `x` and `params` do not fit; names their shapes.
    """
    projected, zeros = _project(params, x, 4)

    def step(state: tuple[Array, Array], projected: Array) -> tuple:
        h, c = state
        columns = projected + h @ params.hidden_kernel
        i, f, g, o = jnp.split(columns, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (zeros, zeros), projected)[1].swapaxes(0, 1)


def _init(num_inputs: int, num_hidden: int, columns: int, key: PRNGKeyArray) -> Params:
    check_counts(num_inputs=num_inputs, num_hidden=num_hidden)
    shapes = ((num_inputs, columns), (num_hidden, columns), (2, columns))
    draw = torch_bias(num_hidden)
    w, u, b = map(draw, jax.random.split(key, 3), shapes)
    return Params(w, u, b.sum(axis=0))


def _project(params: Params, x: Array, blocks: int) -> tuple[Array, Array]:
    """Return x w + b of all steps, steps first, and a state of zeros."""
    w, u, b = params
    expected = (x.shape[2], blocks * u.shape[0])
    if w.shape != expected:
        raise ValueError(
            f"x of shape {x.shape} and {u.shape[0]} hidden units need an input kernel "
            f"of shape {expected}, got {w.shape}"
        )
    projected = (x @ w + b[None, None, :]).swapaxes(0, 1)
    return projected, jnp.zeros((x.shape[0], u.shape[0]), projected.dtype)
