"""The hand-derived backward pass against PyTorch's autograd."""

import jax.numpy as jnp
import numpy as np
import torch
from support import relative_difference

from ch4jax import backprop

LAMBD = 0.3


def torch_forward(w1, w2, x, labels):
    z = x @ w1
    h = torch.tanh(z)
    o = h @ w2
    loss = torch.nn.functional.cross_entropy(o, labels)
    penalty = LAMBD / 2 * (w1.pow(2).sum() + w2.pow(2).sum())
    return {"z": z, "h": h, "o": o, "L": loss, "s": penalty, "J": loss + penalty}


def test_every_quantity_and_every_gradient_is_pytorchs(x64):
    rng = np.random.default_rng(0)
    w1, w2, x = (rng.normal(size=size) for size in ((20, 12), (12, 5), (9, 20)))
    labels = rng.integers(0, 5, 9)
    params = backprop.Params(jnp.asarray(w1), jnp.asarray(w2))
    data = jnp.asarray(x), jnp.asarray(labels)
    kept = backprop.forward(params, *data, LAMBD)
    hand = backprop.backward(params, *data, LAMBD, kept)

    w1, w2 = (torch.tensor(w, requires_grad=True) for w in (w1, w2))
    weights = {"w1": w1, "w2": w2}
    quantities = torch_forward(w1, w2, torch.tensor(x), torch.tensor(labels))
    for quantity in quantities.values():
        quantity.retain_grad()
    quantities["J"].backward()

    for name, theirs in quantities.items():
        assert relative_difference(getattr(kept, name), theirs.detach()) <= 1e-12, name
    for name, theirs in (quantities | weights).items():
        assert getattr(hand, name).dtype == np.float64, name
        assert relative_difference(getattr(hand, name), theirs.grad) <= 1e-12, name
