"""Systems that tell the classes of Fashion-MNIST: data, loss and judgement."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optax
import torch
from jax import numpy as jnp

from ch4jax import training
from experiments.pytorch.systems import Outcome, System, sgd


def classification(images: Any) -> tuple[Any, Any, Any, Any]:
    """Return training inputs and labels, and the test accuracy on either side."""

    def scaled(array: Any) -> Any:
        return np.asarray(array, float).reshape(len(array), -1) / 255

    inputs, labels = scaled(images.train_images), np.asarray(images.train_labels, int)
    test_x, test_y = scaled(images.test_images), np.asarray(images.test_labels, int)

    def score(logits: Any, params: Any) -> Any:
        predicted = logits(params, jnp.asarray(test_x, float), key=None).argmax(axis=-1)
        return (predicted == test_y).mean()

    def torch_score(module: torch.nn.Module) -> float:
        predicted = module(torch.tensor(test_x, dtype=torch.float32)).argmax(dim=1)
        return (predicted.numpy() == test_y).mean()

    return inputs, labels, score, torch_score


def cross_entropy(_: Any, logits: Any, labels: Any) -> Any:
    """Return the cross-entropy of each row; the parameters do not matter to it."""
    return training.classification_metrics(logits, labels)["loss"]


def torch_cross_entropy(_: Any, logits: torch.Tensor, labels: Any) -> torch.Tensor:
    """Return PyTorch's mean cross-entropy."""
    return torch.nn.functional.cross_entropy(logits, labels)


def classifier(
    name: str,
    images: Any,
    *,
    init: Callable[..., Any],
    predict: Callable[..., Any],
    module: Callable[..., torch.nn.Module],
    learning_rate: float,
    batch_size: int,
    runs: int = 30,
) -> System:
    """Return a network that tells the classes, trained for an epoch by SGD.

    Independent runs are of ten epochs and judged by test accuracy, within half a point.
    Their learning rate falls along a cosine: at a constant rate, accuracy wavers by two
    points with the last few batches, and half a point would take 400 runs a side.
    """
    inputs, labels, score, torch_score = classification(images)
    epochs = 10
    schedule = optax.cosine_decay_schedule(
        learning_rate, epochs * -(-len(labels) // batch_size)
    )
    constant, make_theirs = sgd(learning_rate)
    return System(
        name,
        data=(inputs, labels),
        init=init,
        predict=predict,
        row_losses=cross_entropy,
        module=module,
        loss=torch_cross_entropy,
        optimizers={"SGD": (constant, make_theirs)},
        epochs=1,
        batch_size=batch_size,
        outcome=Outcome(
            metric="test accuracy",
            margin=0.005,
            runs=runs,
            epochs=epochs,
            optimizers=(optax.sgd(schedule), make_theirs),
            score=partial(score, predict),
            torch_score=torch_score,
            schedule=torch.optim.lr_scheduler.CosineAnnealingLR,
        ),
    )
