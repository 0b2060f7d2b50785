"""Losses of Flax's side, as PyTorch's `functional` has them."""

import jax.numpy as jnp
import optax


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def mse(outputs, labels):
    return jnp.square(outputs - labels).mean()
