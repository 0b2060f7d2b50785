"""The hand-derived backward pass against PyTorch's autograd."""

import jax.numpy as jnp
import numpy as np
import torch
from support import relative_difference

from ch4jax import backprop

LAMBD = 0.3


def problem():
    rng = np.random.default_rng(0)
    params = backprop.Params(
        jnp.asarray(rng.normal(size=(20, 12))), jnp.asarray(rng.normal(size=(12, 5)))
    )
    x = jnp.asarray(rng.normal(size=(9, 20)))
    return params, x, jnp.asarray(rng.integers(0, 5, 9))


def torch_forward(w1, w2, x, labels):
    z = x @ w1
    h = torch.tanh(z)
    o = h @ w2
    loss = torch.nn.functional.cross_entropy(o, labels)
    penalty = LAMBD / 2 * (w1.pow(2).sum() + w2.pow(2).sum())
    return {"z": z, "h": h, "o": o, "L": loss, "s": penalty, "J": loss + penalty}


def to_torch(array):
    return torch.from_numpy(np.array(array))


def test_every_quantity_and_every_gradient_is_pytorchs(x64):
    params, x, labels = problem()
    kept = backprop.forward(params, x, labels, LAMBD)
    hand = backprop.backward(params, x, labels, LAMBD, kept)

    weights = {
        name: to_torch(w).requires_grad_() for name, w in params._asdict().items()
    }
    quantities = torch_forward(**weights, x=to_torch(x), labels=to_torch(labels))
    for quantity in quantities.values():
        quantity.retain_grad()
    quantities["J"].backward()

    for name, theirs in quantities.items():
        assert relative_difference(getattr(kept, name), theirs.detach()) <= 1e-12, name
    for name, theirs in (quantities | weights).items():
        assert relative_difference(getattr(hand, name), theirs.grad) <= 1e-12, name
