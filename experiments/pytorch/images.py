"""Systems that tell the classes of Fashion-MNIST: data, loss and judgement."""

from typing import Any

import numpy as np
import optax
import torch
from jax import numpy as jnp

from ch4jax import training
from experiments.pytorch.systems import Outcome


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


def accuracy_outcome(
    score: Any,
    torch_score: Any,
    *,
    runs: int,
    epochs: int,
    learning_rate: float,
    steps: int,
) -> Outcome:
    """Judge by test accuracy, within half a point.

    The learning rate falls along a cosine: at a constant rate, accuracy wavers by two
    points with the last few batches, and half a point would take 400 runs a side.
    """
    return Outcome(
        metric="test accuracy",
        margin=0.005,
        runs=runs,
        epochs=epochs,
        optimizers=(
            optax.sgd(optax.cosine_decay_schedule(learning_rate, steps)),
            lambda m: torch.optim.SGD(m.parameters(), lr=learning_rate),
        ),
        score=score,
        torch_score=torch_score,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR,
    )
