"""What both sides of a comparison are given, and one pass of each."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from ch4jax import interop
from ch4jax.interop import import_torch
from ch4jax.parity._flax import Flax, Side, accepted, carries, side_of
from ch4jax.parity._masks import Mask, replayed_in_jax, replayed_in_torch

if TYPE_CHECKING:
    import torch

ALLOWED = {"float64": 1e-12, "float32": 1e-4}  # relative, of levels 1 and 2
Losses = tuple[Callable[..., Any], Callable[..., Any]]


class Setting(NamedTuple):
    """What both sides are given, in one dtype."""

    side: Side
    module: "torch.nn.Module"  # PyTorch's, with the start's values
    params: PyTree
    state: PyTree
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray
    losses: Losses
    options: Mapping[str, Any]
    key: PRNGKeyArray
    value: Callable[..., Any]  # see `_value`


@contextmanager
def prepared(
    dtype: str,
    ours: Flax,
    theirs: "torch.nn.Module",
    inputs: tuple[np.ndarray, ...],
    labels: np.ndarray,
    losses: Losses | None,
    params: PyTree | None,
    original: str,
    options: Mapping[str, Any],
    seed: int,
) -> Iterator[Setting]:
    """Give both sides the same parameters, in one dtype."""
    torch = import_torch()
    with jax.enable_x64(dtype == "float64"), carries(dtype):
        rows, labels = tuple(_as(x, dtype) for x in inputs), _as(labels, dtype)
        side = side_of(ours, params, arrays(rows))
        module = copy.deepcopy(theirs).to(getattr(torch, dtype))
        if original == "flax":
            variables = side.cast(dtype)
            module.load_state_dict(interop.to_torch(variables, module, **options))
            start, state = side.split(variables)
        else:
            start, state = side.carried(module, options)
        integers = np.issubdtype(labels.dtype, np.integer)
        losses = losses or (_cross_entropy() if integers else _squares())
        key = jax.random.key(seed)
        yield Setting(
            *(side, module, start, state, rows, labels, losses, options),
            *(key, _value(side, losses[0], key)),
        )


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    if np.issubdtype(x.dtype, np.floating):
        return x.astype(dtype)
    return x.astype(np.int64) if np.issubdtype(x.dtype, np.integer) else x


def arrays(inputs: Sequence[np.ndarray]) -> list[Array]:
    return [jnp.asarray(x) for x in inputs]


def _cross_entropy() -> Losses:
    """Classes are on the axis that the labels lack: the second, or else the last."""

    def axis(outputs: Any, labels: Any) -> int:
        return 1 if (*outputs.shape[:1], *outputs.shape[2:]) == labels.shape else -1

    def ours(outputs: Array, labels: Array) -> Array:
        logits = jnp.moveaxis(outputs, axis(outputs, labels), -1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    def theirs(outputs: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        logits = outputs.movedim(axis(outputs, labels), 1)
        return import_torch().nn.functional.cross_entropy(logits, labels)

    return ours, theirs


def _squares() -> Losses:
    def ours(outputs: Array, labels: Array) -> Array:
        return jnp.square(outputs - labels).mean()

    return ours, import_torch().nn.functional.mse_loss


def _value(side: Side, our_loss: Callable, key: PRNGKeyArray) -> Callable[..., Any]:
    """Return what gives loss, outputs, state, and gradients with recorded masks."""

    @jax.jit
    def value(params, state, inputs, labels, kept) -> Any:
        def loss(params: PyTree, inputs: Sequence[Any]) -> Any:
            with replayed_in_jax(kept):
                outputs, new = side.apply(params, state, inputs, train=True, key=key)
            given = accepted(our_loss, params=params)
            return our_loss(outputs, labels, **given), (outputs, new)

        grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
        return grad(params, inputs)

    return value


def forward(
    s: Setting,
    module: "torch.nn.Module",
    inputs: Sequence[np.ndarray],
    labels: np.ndarray,
    masks: Sequence[Mask],
) -> tuple[list[Any], Any, Any]:
    """Run PyTorch, in its mode; return inputs, outputs and loss."""
    torch = import_torch()
    tensors = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    with replayed_in_torch(masks) if module.training else nullcontext():
        outputs = module(*tensors)
    loss = s.losses[1]
    given = accepted(loss, module=module)
    return tensors, outputs, loss(outputs, torch.tensor(labels), **given)
