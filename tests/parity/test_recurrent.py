"""The recurrent layers against PyTorch's: outputs, gradients, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

from ch4jax.parity import difference
from ch4jax.recurrent import Params, init_lstm, init_rnn, lstm, rnn

BOTH = [(init_rnn, rnn, torch.nn.RNN), (init_lstm, lstm, torch.nn.LSTM)]


@pytest.mark.parametrize(("init", "layer", "twin"), BOTH)
def test_outputs_and_gradients_over_thirty_steps_are_pytorchs(init, layer, twin, x64):
    params = init(5, 8, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(4, 30, 5)), rng.normal(size=(4, 30, 8))
    ours, pullback = jax.vjp(layer, params, jnp.asarray(x))

    module = twin(5, 8, batch_first=True, dtype=torch.float64)
    w, u, b = (torch.tensor(np.asarray(leaf).T) for leaf in params)
    biases = {"bias_ih_l0": 0.25 * b, "bias_hh_l0": 0.75 * b}  # PyTorch adds them
    module.load_state_dict({"weight_ih_l0": w, "weight_hh_l0": u, **biases})
    x = torch.tensor(x, requires_grad=True)
    theirs, _ = module(x)
    theirs.backward(torch.tensor(weights))
    grads = Params(
        module.weight_ih_l0.grad.T, module.weight_hh_l0.grad.T, module.bias_hh_l0.grad
    )
    assert difference(ours, theirs.detach()) <= 1e-12
    assert difference(pullback(jnp.asarray(weights)), (grads, x.grad)) <= 1e-12


@pytest.mark.parametrize(("init", "layer", "twin"), BOTH)
def test_what_is_drawn_is_distributed_as_in_pytorch(init, layer, twin):
    torch.manual_seed(0)
    w, u, *biases = (p.detach().numpy() for p in twin(50, 200).parameters())
    ours = init(50, 200, key=jax.random.key(0))
    for mine, theirs in zip(ours, (w, u, sum(biases)), strict=True):
        assert scipy.stats.ks_2samp(np.ravel(mine), theirs.ravel()).pvalue > 1e-4
