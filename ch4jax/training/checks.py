"""Checks of arguments that several public functions share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, Shaped


def check_counts(**counts: int) -> None:
    """Raise ValueError unless each is a whole number of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int | np.integer):
            raise ValueError(f"{name} must be a whole number, got {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_one_shape(**arrays: Shaped[Array | np.ndarray, "..."]) -> None:
    """Raise ValueError unless the shapes are equal; (n, 1) and (n,) would broadcast."""
    shapes = [array.shape for array in arrays.values()]
    if len(set(shapes)) > 1:
        names, found = " and ".join(arrays), " and ".join(map(str, shapes))
        raise ValueError(f"{names} must have one shape, got {found}")


def check_rows(**arrays: Shaped[Array | np.ndarray, "..."]) -> int:
    """Return the number of rows; raise ValueError unless all have as many, and some."""
    rows = {array.shape[:1] for array in arrays.values()}
    if len(rows) > 1 or rows & {(), (0,)}:
        names, shapes = ", ".join(arrays), [array.shape for array in arrays.values()]
        found = ", ".join(map(str, shapes))
        raise ValueError(f"{names} must have as many rows, and some, got {found}")
    return rows.pop()[0]


def check_mask(**masks: Shaped[Array, "..."]) -> None:
    """Raise ValueError unless each has a bool for each row; weights are no mask."""
    for name, mask in masks.items():
        if mask.dtype != bool or mask.ndim != 1:
            raise ValueError(
                f"{name} must be true or false for each row, got {mask.dtype} of shape "
                f"{mask.shape}"
            )


def check_labels(
    logits: Shaped[Array, "..."], labels: Shaped[Array | np.ndarray, "..."]
) -> None:
    """Raise ValueError unless there is one integer label for each row of logits."""
    if not jnp.issubdtype(labels.dtype, jnp.integer) or (
        labels.shape != logits.shape[:-1]
    ):
        raise ValueError(
            f"labels must be integers of shape {logits.shape[:-1]}, one for each row "
            f"of logits, got {labels.dtype} of shape {labels.shape}"
        )


def check_width(x: Shaped[Array, "..."], kernel: Shaped[Array, "..."]) -> None:
    """Raise ValueError unless `x` has rows, each with an entry for each kernel row."""
    if x.ndim < 2 or math.prod(x.shape[1:]) != kernel.shape[0]:
        raise ValueError(
            f"x of shape {x.shape} does not fit the kernel of shape {kernel.shape}"
        )


def check_member_keys(keys: Key[Array, "..."]) -> None:
    """Raise ValueError if, mapped over, one of several keys would not draw its own.

    Under `jax.vmap`, JAX's `rbg` and `unsafe_rbg` draw everything from the first key.
    """
    impl = str(jax.random.key_impl(keys))
    if keys.size > 1 and "rbg" in impl:
        raise ValueError(
            f"several members need keys of threefry2x32, got {impl}: mapped over, its "
            "keys do not draw what each draws alone"
        )
