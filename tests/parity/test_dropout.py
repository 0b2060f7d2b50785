"""The dropout MLP from scratch against PyTorch: same batches, same masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from parity.carry import carry, difference
from support import relative_difference

from ch4jax import parity, training
from ch4jax.dropout import dropout_layer, init_mlp, mlp
from ch4jax.interop import from_torch
from experiments.pytorch import twins

SIZES = (12, 16, 8, 10)
RATES = (0.2, 0.5)
ROWS, BATCH_SIZE, EPOCHS = 74, 16, 4  # five steps an epoch, ten rows in the last
LEARNING_RATE = 0.5


def drawn_masks(num_rows, key):
    """Return the masks that `mlp` draws from `key`."""
    for i, (width, rate) in enumerate(zip(SIZES[1:-1], RATES, strict=True)):
        ones = jnp.ones((num_rows, width))
        yield dropout_layer(ones, rate, key=jax.random.fold_in(key, i)) != 0


def metrics_fn(params, x, labels, *, key):
    return training.classification_metrics(mlp(params, x, RATES, key=key), labels)


def test_twenty_sgd_steps_with_a_short_last_batch_equal_pytorch(x64):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(ROWS, 12)), rng.integers(10, size=ROWS)
    data = jnp.asarray(x), jnp.asarray(labels)
    layers = init_mlp(SIZES, std=0.3, key=jax.random.key(1))
    optimizer, key = optax.sgd(LEARNING_RATE), jax.random.key(3)
    state = training.init_state(layers, optimizer)
    shuffle_key, step_key = jax.random.split(jax.random.clone(key))
    *hidden, classes = SIZES[1:]
    twin = twins.perceptron(hidden, RATES, num_inputs=SIZES[0], num_classes=classes)
    carry(layers, twin)
    sgd = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)

    for _ in range(EPOCHS):
        order, real = training.batch_rows(
            ROWS, BATCH_SIZE, key=jax.random.fold_in(shuffle_key, state.step)
        )
        total = 0.0
        for i, (batch, here) in enumerate(zip(order, np.asarray(real), strict=True)):
            drawn = drawn_masks(
                len(batch), jax.random.fold_in(step_key, state.step + i)
            )
            rows = (*(array[batch] for array in data), *drawn)
            inputs, labels, *given = (torch.tensor(np.asarray(a)[here]) for a in rows)
            masks = [parity.Mask(m, r) for m, r in zip(given, RATES, strict=True)]
            with parity.replayed_in_torch(masks):
                outputs = twin(inputs)
            loss = torch.nn.functional.cross_entropy(outputs, labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += loss.item() * here.sum()
        state, metrics = training.train_epoch(
            state,
            data,
            metrics_fn=metrics_fn,
            optimizer=optimizer,
            batch_size=BATCH_SIZE,
            key=jax.random.clone(key),
        )
        assert relative_difference(metrics["loss"], total / ROWS) <= 1e-12

    assert state.step == 20
    theirs = from_torch(twin.state_dict(), layers)
    assert difference(layers, theirs) > 0.1
    assert difference(state.params, theirs) <= 1e-12
