"""Weight decay against PyTorch: same parameters, same batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from parity.carry import carry
from support import largest_difference, relative_difference

from ch4jax import training
from ch4jax.data.synthetic import linear_regression
from ch4jax.interop import from_torch
from ch4jax.weight_decay import (
    init_params,
    kernel_mask,
    l2_adam,
    l2_penalty,
    l2_sgd,
    linreg,
    mse,
    squared_loss,
    train,
)

fit = jax.jit(
    training.fit, static_argnames=("metrics_fn", "optimizer", "epochs", "batch_size")
)
ROWS, INPUTS, LAMBD, LEARNING_RATE = 20, 200, 3.0, 0.003
BATCH_SIZE, EPOCHS = 6, 125  # four steps an epoch, two rows in the last: 500 steps
TOLERANCE = {"float64": 1e-12, "float32": 1e-4}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def problem():
    data_key, init_key, bias_key, key = jax.random.split(jax.random.key(0), 4)
    w = jnp.full((INPUTS, 1), 0.01)
    params = init_params(INPUTS, key=init_key)
    params["bias"] = jax.random.normal(bias_key, (1,))
    return linear_regression(w, 0.05, ROWS, key=data_key), params, key


def tensors(arrays, **options):
    """Return tensors with the values of arrays."""
    return [torch.tensor(np.asarray(array), **options) for array in arrays]


def batches(data, key, epochs):
    """Yield the batches that training with `key` sees, as tensors."""
    shuffle_key, _ = jax.random.split(key)
    steps = -(-ROWS // BATCH_SIZE)
    for epoch in range(epochs):
        order, real = training.batch_rows(
            ROWS, BATCH_SIZE, key=jax.random.fold_in(shuffle_key, epoch * steps)
        )
        for rows, here in zip(np.asarray(order), np.asarray(real), strict=True):
            yield tensors(np.asarray(array)[rows[here]] for array in data)


def torch_scratch(params, data, key, epochs):
    """Train as the book does: the penalty in the loss, sgd by hand."""
    w, b = tensors((params["kernel"], params["bias"]), requires_grad=True)
    for x, y in batches(data, key, epochs):
        loss = (x @ w + b - y) ** 2 / 2 + LAMBD * (w**2).sum() / 2
        loss.sum().backward()
        with torch.no_grad():
            for parameter in (w, b):
                parameter -= LEARNING_RATE * parameter.grad / len(x)
                parameter.grad.zero_()
    return {"kernel": w.detach(), "bias": b.detach()}


def torch_concise(params, data, key, epochs, make_optimizer):
    """Train as a PyTorch user does: MSELoss, weight_decay on the weight alone."""
    net = carry(params, torch.nn.Linear(INPUTS, 1))
    optimizer = make_optimizer(
        [
            {"params": [net.weight], "weight_decay": LAMBD},
            {"params": [net.bias], "weight_decay": 0.0},
        ]
    )
    loss_fn = torch.nn.MSELoss()
    for x, y in batches(data, key, epochs):
        optimizer.zero_grad()
        loss_fn(net(x), y).backward()
        optimizer.step()
    return from_torch(net.state_dict(), params)


ADAMW = optax.adamw(LEARNING_RATE, weight_decay=LAMBD, mask=kernel_mask)
OPTIMIZERS = pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(
            l2_sgd(LEARNING_RATE, LAMBD),
            lambda groups: torch.optim.SGD(groups, lr=LEARNING_RATE),
            id="SGD",
        ),
        pytest.param(
            l2_sgd(LEARNING_RATE, LAMBD, momentum=0.9),
            lambda groups: torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9),
            id="momentum",
        ),
        pytest.param(
            l2_adam(LEARNING_RATE, LAMBD),
            lambda groups: torch.optim.Adam(groups, lr=LEARNING_RATE),
            id="Adam",
        ),
        pytest.param(
            ADAMW,
            lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE),
            id="AdamW",
        ),
    ],
)


def difference(ours, theirs):
    return largest_difference((ours[name], theirs[name]) for name in theirs)


def test_loss_and_gradients_equal_pytorch(dtype):
    (x, y), params, _ = problem()

    def loss_fn(params):
        loss = squared_loss(linreg(params, x), y)
        return loss.mean() + LAMBD * l2_penalty(params["kernel"])

    loss, grads = jax.value_and_grad(loss_fn)(params)

    w, b = tensors((params["kernel"], params["bias"]), requires_grad=True)
    tx, ty = tensors((x, y))
    torch_loss = torch.nn.functional.mse_loss(tx @ w + b, ty) / 2
    torch_loss = torch_loss + LAMBD * w.square().sum() / 2
    torch_loss.backward()
    assert loss.dtype == dtype
    assert relative_difference(loss, torch_loss.detach()) <= TOLERANCE[dtype]
    theirs = {"kernel": w.grad, "bias": b.grad}
    assert difference(grads, theirs) <= TOLERANCE[dtype]


def test_500_steps_from_scratch_equal_pytorch(x64):
    data, params, key = problem()
    last, _ = train(
        params,
        data,
        LAMBD,
        learning_rate=LEARNING_RATE,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        key=key,
    )
    theirs = torch_scratch(params, data, key, EPOCHS)
    assert difference(params, theirs) > 0.1
    assert difference(last, theirs) <= TOLERANCE["float64"]


@OPTIMIZERS
def test_500_concise_steps_equal_pytorch(ours, theirs, x64):
    data, params, key = problem()
    last, _ = fit(
        {"params": params},
        data,
        metrics_fn=mse,
        optimizer=ours,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        key=key,
    )
    twin = torch_concise(params, data, key, EPOCHS, theirs)
    assert difference(params, twin) > 0.1
    assert difference(last["params"], twin) <= TOLERANCE["float64"]


def test_an_epoch_of_adam_in_float32_equals_pytorch():
    data, params, key = problem()
    last, _ = fit(
        {"params": params},
        data,
        metrics_fn=mse,
        optimizer=l2_adam(LEARNING_RATE, LAMBD),
        epochs=1,
        batch_size=BATCH_SIZE,
        key=key,
    )
    twin = torch_concise(
        params,
        data,
        key,
        1,
        lambda groups: torch.optim.Adam(groups, lr=LEARNING_RATE),
    )
    assert difference(last["params"], twin) <= TOLERANCE["float32"]
