"""The same dropout masks on both sides: recorded in JAX, applied in PyTorch."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PyTree

from ch4jax.errors import Mismatch
from ch4jax.interop import import_torch
from ch4jax.parity._report import Check

if TYPE_CHECKING:
    import torch

SIGMAS = 5.0  # how far chance may take a count
_REFUSED = (
    *("dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
    "feature_alpha_dropout",
)


class Mask(NamedTuple):
    """What one call of dropout keeps.

    Attributes:
      kept: whether an entry is kept.
      rate: the probability of dropping.
    """

    kept: Array | np.ndarray
    rate: float


def mask_checks(steps: Sequence[Sequence[Mask]]) -> list[Check]:
    """Check that masks drop as often as they should, and that no two are correlated.

    Differences are in standard deviations of what independent coins give.

    Args:
      steps: the masks of each step of a run, as many and of the same sizes in all.
    """
    columns = [
        (column[0].rate, np.stack([np.ravel(mask.kept) for mask in column]))
        for column in zip(*steps, strict=True)
        if 0 < column[0].rate < 1
    ]
    kept = [masks for _, masks in columns]
    found = {
        "fraction kept by the masks": [
            abs(masks.mean() - (1 - rate)) / math.sqrt(rate * (1 - rate) / masks.size)
            for rate, masks in columns
        ],
        "masks of two layers, correlation": [
            _correlation(a, b) for a, b in itertools.pairwise(kept)
        ],
        "masks of two steps, correlation": [
            _correlation(masks[1:], masks[:-1]) for masks in kept
        ],
    }
    return [
        Check(3, what, "", float(np.max(apart)), SIGMAS)
        for what, apart in found.items()
        if apart
    ]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two masks a step, in standard deviations of chance."""
    width = min(a.shape[1], b.shape[1])
    a, b = a[:, :width].ravel(), b[:, :width].ravel()
    if not a.size or not 0 < a.mean() < 1 or not 0 < b.mean() < 1:
        return 0.0
    return abs(float(np.corrcoef(a, b)[0, 1])) * math.sqrt(a.size)


@contextmanager
def recorded() -> Iterator[list[Mask]]:
    """Collect what `jax.random.bernoulli` returns, outside of `jit`.

    Raises:
      Mismatch: if it is called where its result is not known yet.
    """
    masks: list[Mask] = []
    draw = jax.random.bernoulli

    def bernoulli(
        key: Array, p: ArrayLike = 0.5, *args: PyTree, **kwargs: PyTree
    ) -> Array:
        kept = draw(key, p, *args, **kwargs)
        if isinstance(kept, Tracer):
            raise Mismatch("dropout inside jit or scan: its masks cannot be read")
        masks.append(Mask(np.asarray(kept), 1 - np.asarray(p).item()))
        return kept

    with mock.patch.object(jax.random, "bernoulli", bernoulli):
        yield masks


@contextmanager
def replayed_in_jax(kept: Sequence[Array]) -> Iterator[None]:
    """Let `jax.random.bernoulli` return recorded masks, in order."""
    with mock.patch.object(jax.random, "bernoulli", side_effect=kept):
        yield


@contextmanager
def replayed_in_torch(masks: Sequence[Mask]) -> Iterator[None]:
    """Let PyTorch's dropout, modules and functions, apply recorded masks in order.

    Raises:
      Mismatch: if PyTorch drops more often, less often, at another rate, other shapes,
        or where no mask can be handed over: whole channels, fused attention.
    """
    functional = import_torch().nn.functional
    attention = functional.scaled_dot_product_attention
    left = list(masks)

    def dropout(
        name: str, x: "torch.Tensor", p: float = 0.5, training: bool = True, *_: bool
    ) -> "torch.Tensor":
        if not training or p == 0:
            return x
        if name in _REFUSED:
            raise Mismatch(f"{name} drops whole channels: no mask is handed over")
        if not left:
            raise Mismatch(
                f"PyTorch drops {len(masks) + 1} times or more, Flax {len(masks)} times"
            )
        mask = left.pop(0)
        if abs(mask.rate - p) > 1e-6:
            raise Mismatch(f"dropout rate {mask.rate:.6g} for PyTorch's {p:.6g}")
        kept = _fitting(np.asarray(mask.kept), tuple(x.shape))
        return x * x.new_tensor(kept) / (1 - p)

    def fused(
        *args: PyTree, dropout_p: float = 0.0, **kwargs: PyTree
    ) -> "torch.Tensor":
        if dropout_p or (len(args) > 4 and args[4]):
            raise Mismatch(
                "dropout inside scaled_dot_product_attention: no mask fits in there; "
                "set it to 0, or call the attention with need_weights=True"
            )
        return attention(*args, **kwargs)

    names = "dropout", *_REFUSED
    stand_ins = {"scaled_dot_product_attention": fused}
    stand_ins |= {name: partial(dropout, name) for name in names}
    with mock.patch.dict(vars(functional), stand_ins):
        yield
    if left:
        raise Mismatch(
            f"PyTorch drops {len(masks) - len(left)} times, Flax {len(masks)} times; "
            "a dropout imported by name cannot be handed masks"
        )


def _fitting(kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask in PyTorch's order of axes, or with rows and heads as one axis."""
    options = [kept]
    if kept.ndim > 2:
        options += [np.moveaxis(kept, -1, 1), kept.reshape(-1, *kept.shape[2:])]
    for mask in options:
        if mask.shape == shape:
            return mask
        if mask.ndim == len(shape) and mask.size == math.prod(
            n for m, n in zip(mask.shape, shape, strict=True) if m != 1
        ):
            raise Mismatch(
                f"one mask {kept.shape} in Flax for all entries of PyTorch's {shape}: "
                "set broadcast_dropout=False, or no broadcast_dims"
            )
    raise Mismatch(f"a mask is {kept.shape} in Flax, and PyTorch drops in {shape}")
