"""A perceptron that reaches 88% on Fashion-MNIST fast, in JAX and in PyTorch."""

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

HIDDEN, BATCH_SIZE, EPOCHS = 256, 64, 4
LEARNING_RATE = 0.004  # of Adam, at its peak


def schedule(rows: int, minimum: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function from a step of a run over `rows` to its learning rate.

    It rises from a tenth to the peak in a quarter of the steps, then falls to 0, after
    Smith and Topin (2017). `minimum` is that of the library.
    """
    steps = EPOCHS * -(-rows // BATCH_SIZE)

    def rate(step: ArrayLike) -> Any:
        done = step / steps
        return LEARNING_RATE * minimum(0.1 + 3.6 * done, (1 - done) / 0.75)

    return rate
