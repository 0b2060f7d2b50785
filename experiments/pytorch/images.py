"""Classifiers of Fashion-MNIST on both sides: rows, loss and judgement."""

from collections.abc import Callable, Iterable

import numpy as np
import optax
import torch
from jaxtyping import Array, PyTree
from torch import nn

from ch4jax import training
from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.parity import Pair
from experiments.pytorch.systems import Ours, Outcome, Rows, System, Theirs, sgd


def pixels(images: Array | np.ndarray, labels: Array | np.ndarray) -> Rows:
    """Return 784 numbers in [0, 1] for each image, and its class."""
    scaled = np.asarray(images, float).reshape(len(images), -1) / 255
    return scaled, np.asarray(labels, int)


def cross_entropy(_: PyTree, outputs: Array, labels: Array) -> Array:
    """Return the cross-entropy of each row."""
    return training.classification_metrics(outputs, labels)["loss"]


def classifier(
    name: str,
    images: FashionMNIST,
    ours: Ours,
    module: Callable[[], nn.Module],
    *,
    learning_rate: float,
    batch_size: int,
    runs: int = 0,
) -> System:
    """Return a network that minimises cross-entropy, trained for an epoch by SGD.

    Independent runs, if any, are of ten epochs and judged by test accuracy, within half
    a point. Their learning rate falls along a cosine: at a constant rate, accuracy
    wavers by two points with the last few batches, and half a point would take 400 runs
    a side.
    """
    data = pixels(images.train_images, images.train_labels)
    steps = 10 * -(-len(data[0]) // batch_size)
    cosine = optax.cosine_decay_schedule(learning_rate, steps)

    def torch_cosine(parameters: Iterable[nn.Parameter]) -> Callable[[], PyTree]:
        optimizer = torch.optim.SGD(parameters, lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return lambda: (optimizer.step(), schedule.step())

    outcome = Outcome(
        "test accuracy",
        test=pixels(images.test_images, images.test_labels),
        margin=0.005,
        runs=runs,
        epochs=10,
        pair=Pair(optax.sgd(cosine), torch_cosine),
        score=lambda logits, labels: (logits.argmax(axis=-1) == labels).mean(),
        torch_score=lambda y, labels: (y.argmax(dim=1) == labels).double().mean(),
    )
    return System(
        name,
        data,
        ours,
        Theirs(module, lambda _, *pair: nn.functional.cross_entropy(*pair)),
        {"SGD": sgd(learning_rate)},
        epochs=1,
        batch_size=batch_size,
        outcome=outcome if runs else None,
    )
