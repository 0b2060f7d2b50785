"""Weight decay as the book writes it from scratch: same parameters, same batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ch4jax import training, weight_decay
from ch4jax.data.synthetic import linear_regression
from ch4jax.parity import difference

ROWS, INPUTS, LAMBD = 20, 200, 3.0
RECIPE = {"learning_rate": 0.003, "epochs": 125, "batch_size": 6}  # 500 steps


def batches(data, key):
    """Yield the batches that training with `key` sees, as tensors."""
    shuffle_key, _ = jax.random.split(key)
    for epoch in range(RECIPE["epochs"]):
        epoch_key = jax.random.fold_in(shuffle_key, 4 * epoch)  # four steps an epoch
        order, real = training.batch_rows(ROWS, RECIPE["batch_size"], key=epoch_key)
        for rows, here in zip(np.asarray(order), np.asarray(real), strict=True):
            yield [torch.tensor(np.asarray(array)[rows[here]]) for array in data]


def torch_scratch(params, data, penalty, key):
    """Train as the book does: the penalty in the loss, sgd by hand."""
    w, b = (
        torch.tensor(np.asarray(params[name]), requires_grad=True)
        for name in ("kernel", "bias")
    )
    for x, y in batches(data, key):
        loss = (x @ w + b - y) ** 2 / 2 + LAMBD * penalty(w)
        loss.sum().backward()
        with torch.no_grad():
            for parameter in (w, b):
                parameter -= RECIPE["learning_rate"] * parameter.grad / len(x)
                parameter.grad.zero_()
    return {"kernel": w.detach(), "bias": b.detach()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (weight_decay.l2_penalty, lambda w: (w**2).sum() / 2),
        (weight_decay.l1_penalty, lambda w: torch.abs(w).sum()),
    ],
)
def test_500_steps_from_scratch_equal_pytorch(ours, theirs, x64):
    data_key, init_key, bias_key, key = jax.random.split(jax.random.key(0), 4)
    data = linear_regression(jnp.full((INPUTS, 1), 0.01), 0.05, ROWS, key=data_key)
    params = weight_decay.init_params(INPUTS, key=init_key)
    params["bias"] = jax.random.normal(bias_key, (1,))
    last, _ = weight_decay.train(
        params, data, LAMBD, penalty=ours, key=jax.random.clone(key), **RECIPE
    )
    their_last = torch_scratch(params, data, theirs, key)
    assert difference(params, their_last) > 0.1
    assert difference(last, their_last) <= 1e-12


def test_the_gradient_of_l1_and_soft_thresholding_are_pytorchs():
    w = jnp.array([-2.0, -0.5, 0.0, 0.3, 1.5])
    tensor = torch.tensor(np.asarray(w), requires_grad=True)
    torch.abs(tensor).sum().backward()
    np.testing.assert_array_equal(jax.grad(weight_decay.l1_penalty)(w), tensor.grad)
    shrunk = torch.nn.functional.softshrink(tensor.detach(), 0.5)
    np.testing.assert_array_equal(weight_decay.soft_threshold(w, 0.5), shrunk)
