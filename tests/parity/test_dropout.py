"""The dropout MLP against PyTorch: same parameters, same batches, same masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn
from parity.carry import carry, difference, gradients
from support import relative_difference

from ch4jax import training
from ch4jax.dropout import DropoutMLP, dropout_layer, init_mlp, mlp
from ch4jax.interop import from_torch
from experiments.pytorch import twins

SIZES = (12, 16, 8, 10)
RATES = (0.2, 0.5)
LEARNING_RATE = 0.5
TOLERANCE = {"float64": 1e-12, "float32": 1e-4}


def twin_of(layers):
    """Return the network as a PyTorch user writes it, but that its masks are given."""
    *hidden, num_classes = SIZES[1:]
    sizes = {"num_inputs": SIZES[0], "num_classes": num_classes}
    twin = twins.perceptron(hidden, RATES, dropout=twins.GivenDropout, **sizes)
    return carry(layers, twin)


def tensors(arrays):
    return [torch.tensor(np.asarray(array)) for array in arrays]


class Scratch:
    """The functions of the room, as `training` wants them."""

    @staticmethod
    def params(layers):
        return layers

    layers = params

    @staticmethod
    def logits(params, x, *, key):
        return mlp(params, x, RATES, key=key)

    @staticmethod
    def masks(params, x, key):
        widths = [layer["bias"].size for layer in params[:-1]]
        return [
            np.asarray(
                dropout_layer(
                    jnp.ones((len(x), width)), rate, key=jax.random.fold_in(key, i)
                )
                != 0
            )
            for i, (width, rate) in enumerate(zip(widths, RATES, strict=True))
        ]


class Flax:
    """The module of the room, as `training` wants it."""

    model = DropoutMLP(hidden=SIZES[1:-1], rates=RATES)

    @staticmethod
    def params(layers):
        return {"params": {f"Dense_{i}": layer for i, layer in enumerate(layers)}}

    @staticmethod
    def layers(params):
        return [params["params"][f"Dense_{i}"] for i in range(len(SIZES) - 1)]

    @classmethod
    def logits(cls, params, x, *, key):
        rngs = None if key is None else {"dropout": key}
        return cls.model.apply(params, x, train=key is not None, rngs=rngs)

    @classmethod
    def masks(cls, params, x, key):
        # What comes out of a dropout layer as zero was zero before it, or was
        # dropped; either way a mask of zero there gives the same network.
        _, state = cls.model.apply(
            params,
            x,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
        )
        outputs = [state["intermediates"][f"Dropout_{i}"] for i in range(len(RATES))]
        return [np.asarray(output["__call__"][0] != 0) for output in outputs]


IMPLEMENTATIONS = pytest.mark.parametrize("impl", [Scratch, Flax])


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def problem(dtype, rows):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, SIZES[0])).astype(dtype)
    labels = rng.integers(0, SIZES[-1], rows).astype(np.int32)
    layers = init_mlp(SIZES, std=0.3, key=jax.random.key(1))
    assert layers[0]["kernel"].dtype == dtype
    return jnp.asarray(x), jnp.asarray(labels), layers


def metrics_fn(impl):
    def metrics(params, x, labels, *, key):
        logits = impl.logits(params, x, key=key)
        return training.classification_metrics(logits, labels)

    return metrics


@IMPLEMENTATIONS
@pytest.mark.parametrize("train", [True, False])
def test_forward_loss_and_gradients_equal_pytorch(impl, train, dtype):
    x, labels, layers = problem(dtype, rows=32)
    params = impl.params(layers)

    def loss_fn(params):
        logits = impl.logits(params, x, key=jax.random.key(2) if train else None)
        rows = training.classification_metrics(logits, labels)["loss"]
        return rows.mean(), logits

    (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)

    twin = twin_of(layers).train(train)
    if train:
        twins.give_masks(twin, tensors(impl.masks(params, x, jax.random.key(2))))
    x, labels = tensors((x, labels))
    twin_logits = twin(x)
    twin_loss = torch.nn.functional.cross_entropy(twin_logits, labels.long())
    twin_loss.backward()

    assert relative_difference(logits, twin_logits.detach()) <= TOLERANCE[dtype]
    assert relative_difference(loss, twin_loss.detach()) <= TOLERANCE[dtype]
    ours, theirs = impl.layers(grads), gradients(twin, layers)
    assert difference(ours, theirs) <= TOLERANCE[dtype]


@IMPLEMENTATIONS
def test_twenty_sgd_steps_with_a_short_last_batch_equal_pytorch(impl, dtype):
    rows, batch_size, epochs = 74, 16, 4  # five steps an epoch, ten rows in the last
    x, labels, layers = problem(dtype, rows)
    optimizer = optax.sgd(LEARNING_RATE)
    key = jax.random.key(3)
    state = training.init_state(impl.params(layers), optimizer)
    train_epoch = partial(
        training.train_epoch,
        metrics_fn=metrics_fn(impl),
        optimizer=optimizer,
        batch_size=batch_size,
    )
    shuffle_key, step_key = jax.random.split(jax.random.clone(key))
    twin = twin_of(layers)
    sgd = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)

    for _ in range(epochs):
        order, real = training.batch_rows(
            rows, batch_size, key=jax.random.fold_in(shuffle_key, state.step)
        )
        total = 0.0
        for i, (batch, here) in enumerate(zip(order, np.asarray(real), strict=True)):
            mask_key = jax.random.fold_in(step_key, state.step + i)
            now = impl.params(from_torch(twin.state_dict(), layers))
            masks = impl.masks(now, x[batch], mask_key)
            rows_of = (x[batch], labels[batch], *masks)
            inputs, target, *masks = tensors(np.asarray(a)[here] for a in rows_of)
            twins.give_masks(twin, masks)
            loss = torch.nn.functional.cross_entropy(twin(inputs), target.long())
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += loss.item() * here.sum()
        state, metrics = train_epoch(state, (x, labels), key=jax.random.clone(key))
        assert relative_difference(metrics["loss"], total / rows) <= TOLERANCE[dtype]

    assert state.step == 20
    theirs = jax.tree.leaves(from_torch(twin.state_dict(), layers))
    start = jax.tree.leaves(layers)
    moved = [relative_difference(a, b) for a, b in zip(start, theirs, strict=True)]
    assert min(moved) > 0.1
    assert difference(impl.layers(state.params), theirs) <= TOLERANCE[dtype]
