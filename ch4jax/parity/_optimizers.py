"""Optimizers of Optax and of PyTorch that take the same steps."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ch4jax.interop import import_torch
from ch4jax.parity._causes import EPSILONS

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

    def scheduled(params: Iterable[Any]) -> Callable[[], Any]:
        optimizer = optim.SGD(params, lr=RATE)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return lambda: (optimizer.step(), schedule.step())

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


def variants(step: Callable[[], Any]) -> dict[str, optax.GradientTransformation]:
    """Return what Optax may have for PyTorch's optimizer, by words; the right first.

    Args:
      step: the method of that name; of anything else no variants are known.
    """
    optimizer = getattr(step, "__self__", None)
    if optimizer is None or not hasattr(optimizer, "param_groups"):
        return {}
    group = optimizer.param_groups[0]
    rate, decay = group["lr"], group["weight_decay"]
    kind, factors = type(optimizer).__name__, (0.1, 0.5, 2.0, 10.0)

    def l2(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(decay), inner)

    if kind in ("Adam", "AdamW"):
        betas, eps = group["betas"], group["eps"]
        adam = partial(optax.adam, rate, *betas)
        apart = partial(optax.adamw, b1=betas[0], b2=betas[1], weight_decay=decay)

        def right(rate: float, eps: float) -> optax.GradientTransformation:
            if kind == "AdamW":
                return apart(rate, eps=eps)
            return l2(optax.adam(rate, *betas, eps=eps))

        return {
            "": right(rate, eps),
            "epsilon inside of the root": l2(adam(eps=0.0, eps_root=eps)),
            "Nesterov's momentum": l2(adam(eps=eps, nesterov=True)),
            "decay in the gradient (L2)": l2(adam(eps=eps)),
            "decay apart from the gradient (AdamW)": apart(rate, eps=eps),
            "no decay": adam(eps=eps),
            "Optax's defaults for AdamW, decay 0.0001": optax.adamw(rate),
            **{
                f"epsilon {e:g} for PyTorch's {eps:g}": right(rate, e) for e in EPSILONS
            },
            **{f"{f:g} times PyTorch's rate": right(f * rate, eps) for f in factors},
        }
    if kind == "SGD":
        momentum, nesterov = group["momentum"], group["nesterov"]
        sgd = partial(optax.sgd, rate)
        sgd_at = partial(optax.sgd, momentum=momentum, nesterov=nesterov)
        late = optax.chain(
            optax.trace(momentum), optax.add_decayed_weights(decay), sgd()
        )
        return {
            "": l2(sgd_at(rate)),
            "no momentum": l2(sgd()),
            "no decay": sgd_at(rate),
            "Nesterov's momentum": l2(sgd(momentum, nesterov=True)),
            "plain momentum": l2(sgd(momentum)),
            "decay after the momentum": late,
            **{
                f"{f:g} times PyTorch's rate": l2(
                    optax.sgd(f * rate, momentum, nesterov)
                )
                for f in factors
            },
        }
    if kind == "RMSprop":
        rmsprop = partial(optax.rmsprop, rate, eps=group["eps"])
        return {
            "": rmsprop(group["alpha"], eps_in_sqrt=False),
            "epsilon inside of the root": rmsprop(group["alpha"]),
            "decay 0.9": rmsprop(0.9, eps_in_sqrt=False),
            "Optax's decay of 0.9, and epsilon inside of the root": optax.rmsprop(rate),
        }
    if kind == "Adagrad":
        ours = optax.adagrad(rate)
        return {
            "": adagrad(rate),
            "a start of 0.1, and epsilon inside of the root": ours,
        }
    return {}
