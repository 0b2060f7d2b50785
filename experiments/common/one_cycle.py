"""Perceptrons that reach an accuracy on Fashion-MNIST fast, in JAX and in PyTorch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ch4jax.data.fashion_mnist import FashionMNIST

SMOOTHING = 0.1  # of the labels


class Recipe(NamedTuple):
    """A perceptron with GELU, and how Adam trains it.

    Attributes:
      hidden: width of each hidden layer.
      batch_size: rows in a batch.
      epochs: passes over the training images.
      learning_rate: at its peak.
    """

    hidden: tuple[int, ...]
    batch_size: int
    epochs: int
    learning_rate: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of pixels, the widths, and number of classes."""
        return (28 * 28, *self.hidden, 10)

    def schedule(self, rows: int, minimum: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function from a step of a run over `rows` to its learning rate.

        It rises from a tenth to the peak in a quarter of the steps, then falls to 0,
        after Smith and Topin (2017). `minimum` is that of the library.
        """
        steps = self.epochs * -(-rows // self.batch_size)

        def rate(step: ArrayLike) -> Any:
            done = step / steps
            return self.learning_rate * minimum(0.1 + 3.6 * done, (1 - done) / 0.75)

        return rate


class Rows(NamedTuple):
    """Standardised images and their classes."""

    images: Float[np.ndarray, "rows pixels"]
    labels: Int[np.ndarray, " rows"]


def standardise(data: FashionMNIST) -> tuple[Rows, Rows]:
    """Return the training and the test set.

    The mean training image is subtracted, and what is left has a deviation of 1 over
    all pixels of the training images.
    """
    train, test = (
        np.asarray(images, np.float32).reshape(len(images), -1)
        for images in (data.train_images, data.test_images)
    )
    mean = train.mean(axis=0)
    deviation = (train - mean).std()
    return (
        Rows((train - mean) / deviation, np.asarray(data.train_labels, np.int64)),
        Rows((test - mean) / deviation, np.asarray(data.test_labels, np.int64)),
    )


RECIPES = {
    "88%": Recipe((128,), 128, 2, 0.006),
    "90%": Recipe((256, 128), 128, 6, 0.003),
}
