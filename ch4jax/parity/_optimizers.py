"""Optimizers of Optax and of PyTorch that take the same steps."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ch4jax.interop import import_torch

RATE, DECAY, STEPS = 0.01, 0.1, 100


class Pair(NamedTuple):
    """An optimizer on both sides.

    Attributes:
      ours: Optax's.
      theirs: takes the parameters of a module of PyTorch, and returns what takes a step
        once their gradients are there.
    """

    ours: optax.GradientTransformation
    theirs: Callable[[Iterable[Any]], Callable[[], Any]]


def adagrad(rate: float, epsilon: float = 1e-10) -> optax.GradientTransformation:
    """Return Adagrad with epsilon outside of the root, as PyTorch has it."""

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        state = jax.tree.map(lambda total, g: total + jnp.square(g), state, updates)
        roots = jax.tree.map(jnp.sqrt, state)
        steps = jax.tree.map(lambda g, r: -rate * g / (r + epsilon), updates, roots)
        return steps, state

    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), update
    )


def optimizers() -> Mapping[str, Pair]:
    """Return the pairs that are ready, by name.

    Optax's defaults are not PyTorch's: RMSprop has epsilon inside the root. So has
    Adagrad, without a setting for it, and it starts from 0.1; see `adagrad`.
    """
    torch = import_torch()
    optim = torch.optim
    decayed = optax.add_decayed_weights(DECAY)
    cosine = optax.cosine_decay_schedule(RATE, STEPS)

    def plain(make: Callable[..., Any], **options: float | bool) -> Callable[..., Any]:
        return lambda params: make(params, lr=RATE, **options).step

    def scheduled(params: Iterable[Any]) -> Callable[[], None]:
        optimizer = optim.SGD(params, lr=RATE)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

        def step() -> None:
            optimizer.step()
            schedule.step()

        return step

    def clipped(params: Iterable[Any]) -> Callable[[], None]:
        params = list(params)
        optimizer = optim.SGD(params, lr=RATE)

        def step() -> None:
            # Optax divides by the norm, PyTorch by the norm plus 1e-6.
            norm = torch.nn.utils.get_total_norm([p.grad for p in params])
            torch.nn.utils.clip_grads_with_norm_(params, 0.1, norm - 1e-6)
            optimizer.step()

        return step

    return {
        "SGD": Pair(optax.sgd(RATE), plain(optim.SGD)),
        "SGD, momentum": Pair(optax.sgd(RATE, 0.9), plain(optim.SGD, momentum=0.9)),
        "SGD, Nesterov, L2": Pair(
            optax.chain(decayed, optax.sgd(RATE, 0.9, nesterov=True)),
            plain(optim.SGD, momentum=0.9, nesterov=True, weight_decay=DECAY),
        ),
        "SGD, cosine schedule": Pair(optax.sgd(cosine), scheduled),
        "SGD, clipped": Pair(
            optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE)), clipped
        ),
        "Adam": Pair(optax.adam(RATE), plain(optim.Adam)),
        "Adam, L2": Pair(
            optax.chain(decayed, optax.adam(RATE)),
            plain(optim.Adam, weight_decay=DECAY),
        ),
        "AdamW": Pair(
            optax.adamw(RATE, weight_decay=DECAY),
            plain(optim.AdamW, weight_decay=DECAY),
        ),
        "RMSprop": Pair(
            optax.rmsprop(RATE, decay=0.99, eps_in_sqrt=False), plain(optim.RMSprop)
        ),
        "Adagrad": Pair(adagrad(RATE), plain(optim.Adagrad)),
    }
