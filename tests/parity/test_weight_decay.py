"""The L1 penalty against PyTorch's; L2 is among the systems of test_compare.py."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from ch4jax import weight_decay


def test_the_gradient_of_l1_and_soft_thresholding_are_pytorchs():
    w = jnp.array([-2.0, -0.5, 0.0, 0.3, 1.5])
    tensor = torch.tensor(np.asarray(w), requires_grad=True)
    torch.abs(tensor).sum().backward()
    np.testing.assert_array_equal(jax.grad(weight_decay.l1_penalty)(w), tensor.grad)
    shrunk = torch.nn.functional.softshrink(tensor.detach(), 0.5)
    np.testing.assert_array_equal(weight_decay.soft_threshold(w, 0.5), shrunk)
    # Without data, a step of training follows that gradient alone.
    params = {"kernel": w[:, None], "bias": jnp.zeros(1)}
    settings = {"learning_rate": 0.5, "epochs": 1, "penalty": weight_decay.l1_penalty}
    nothing, key = (jnp.zeros((5, 5)), jnp.zeros((5, 1))), jax.random.key(0)
    last, _ = weight_decay.train(params, nothing, 3.0, **settings, key=key)
    np.testing.assert_allclose(last["kernel"][:, 0], w - 1.5 * tensor.grad.numpy())
