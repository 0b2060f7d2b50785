"""Weight decay (D2L 3.7): linear regression with a penalty, from scratch and Flax.

From scratch, we minimise the halved squared loss together with the penalty:
`mean(squared_loss) + lambd * penalty`, L2 or L1. The concise version minimises the mean
squared error, without the half, and leaves the penalty to the optimiser, which adds
`weight_decay * kernel` to the gradient as PyTorch's optimisers do. Its gradient of
the loss is twice as large, so SGD takes the same steps in both if

    concise learning rate = scratch learning rate / 2
    concise weight decay  = 2 * lambd

which is what `concise_settings` returns.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_map_with_path
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax import training
from ch4jax.training import Data, Metrics
from ch4jax.training.checks import check_counts, check_one_shape, check_width

Params = dict[str, Array]
Scalar = int | float | Float[Array, ""]
DECAYED = ("kernel", "weight", "embedding")
Penalty = Callable[[Array], Array]


def init_params(num_inputs: int, *, key: PRNGKeyArray) -> Params:
    """Draw the weights from N(0, 1) and set the bias to zero.

    Returns:
      `kernel`, shape (inputs, 1), and `bias`, shape (1,), the names of `model`.

    Raises:
      ValueError: if `num_inputs` is below 1.
    """
    check_counts(num_inputs=num_inputs)
    return {"kernel": jax.random.normal(key, (num_inputs, 1)), "bias": jnp.zeros(1)}


def linreg(params: Params, x: Float[Array, "rows inputs"]) -> Float[Array, "rows 1"]:
    """Return the predictions of linear regression.

    Raises:
      ValueError: if `x` does not have one column for each weight.
    """
    kernel, bias = params["kernel"], params["bias"]
    check_width(x, kernel)
    return x @ kernel + bias[None, :]


def squared_loss(
    predictions: Float[Array, "*predictions"], labels: Float[Array, "*labels"]
) -> Float[Array, "*predictions"]:
    """Return half the squared error of each entry.

    Raises:
      ValueError: if the shapes differ; (rows, 1) and (rows,) would broadcast.
    """
    check_one_shape(predictions=predictions, labels=labels)
    return jnp.square(predictions - labels) / 2


def l2_penalty(w: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Return half the squared L2 norm of `w`; its gradient is `w`."""
    return jnp.square(w).sum() / 2


def l1_penalty(w: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Return the L1 norm of `w`; its gradient is the sign, and 0 where `w` is 0.

    SGD therefore steps over zero and back: no weight becomes exactly zero. See
    `soft_threshold`.
    """
    return (w * jnp.sign(w)).sum()  # the gradient of jnp.abs at 0 is 1, PyTorch's 0


def soft_threshold(w: Float[Array, "*shape"], by: Scalar) -> Float[Array, "*shape"]:
    """Move each entry of `w` towards zero by `by`, and no further.

    After a step on the loss alone, with `by = learning_rate * lambd`, this minimises
    `loss + lambd * l1_penalty` and makes weights exactly zero (proximal gradient;
    Tibshirani, 1996; Daubechies et al., 2004).
    """
    return jnp.sign(w) * jnp.maximum(jnp.abs(w) - by, 0)


def mean_loss(params: Params, data: Data) -> Float[Array, ""]:
    """Return the mean halved squared loss over `data`, without the penalty."""
    x, y = data
    return squared_loss(linreg(params, x), y).mean()


def train(
    params: Params,
    data: Data,
    lambd: Scalar,
    *,
    learning_rate: Scalar = 0.003,
    epochs: int = 100,
    batch_size: int = 5,
    penalty: Penalty = l2_penalty,
    key: PRNGKeyArray,
) -> tuple[Params, Params]:
    """Minimise `mean_loss + lambd * penalty(kernel)` by plain minibatch SGD.

    One program serves every `lambd` and `learning_rate`; you can `jax.vmap` over them.

    Args:
      params: see `init_params`.
      data: features, shape (rows, inputs), and labels, shape (rows, 1).
      lambd: coefficient of the penalty, on the kernel alone.
      learning_rate: of SGD.
      epochs: passes over the data.
      batch_size: rows in a batch.
      penalty: `l2_penalty`, `l1_penalty`, or another function of the kernel.
      key: shuffles the rows of each epoch.

    Returns:
      The parameters after the last epoch; and those after each epoch, with a leading
      axis of epochs.

    Raises:
      ValueError: if `lambd` is a Python number and negative or not finite, if
        `batch_size` is below 1, or if shapes do not fit.
    """
    _check_coefficient("lambd", lambd)
    static = {"epochs": epochs, "batch_size": batch_size, "penalty": penalty}
    return _train(params, data, lambd, learning_rate, key=key, **static)


@partial(jax.jit, static_argnames=("epochs", "batch_size", "penalty"))
def _train(
    params: Params,
    data: Data,
    lambd: Scalar,
    learning_rate: Scalar,
    *,
    key: PRNGKeyArray,
    epochs: int,
    batch_size: int,
    penalty: Penalty,
) -> tuple[Params, Params]:
    def penalised(
        params: Params, x: Array, y: Array, *, key: PRNGKeyArray | None
    ) -> Metrics:
        # The mean over the rows of a batch leaves the penalty as it is. A sum of the
        # losses plus one penalty would weigh it by lambd / batch size.
        loss = squared_loss(linreg(params, x), y)[:, 0]
        return {"loss": loss + lambd * penalty(params["kernel"])}

    return training.fit(
        params,
        data,
        metrics_fn=penalised,
        optimizer=optax.sgd(learning_rate),
        epochs=epochs,
        batch_size=batch_size,
        key=key,
    )


_normal = nn.initializers.normal(1.0)
model = nn.Dense(1, kernel_init=_normal, bias_init=_normal)
"""Linear regression in Flax; as in the book, its bias too starts from N(0, 1)."""


def mse(variables: PyTree, x: Array, y: Array, *, key: PRNGKeyArray | None) -> Metrics:
    """Return the squared error of each row, not halved: `model`'s metrics function."""
    predictions = jnp.asarray(model.apply(variables, x))
    return {"loss": 2 * squared_loss(predictions, y)[:, 0]}


def concise_settings(learning_rate: Scalar, lambd: Scalar) -> tuple[Scalar, Scalar]:
    """Return the arguments for `l2_sgd` to take, on `mse`, the steps of `train`.

    >>> concise_settings(0.003, 3.0)
    (0.0015, 6.0)
    """
    return learning_rate / 2, 2 * lambd


def kernel_mask(params: PyTree) -> PyTree:
    """Return True for each leaf named `kernel`, `weight` or `embedding`, else False.

    A box around a leaf, such as `nn.Partitioned` or `nnx.Param`, has no name. What
    `parameters.freeze` has frozen is not decayed.

    >>> kernel_mask({"bias": jnp.zeros(1), "kernel": jnp.zeros((2, 1))})
    {'bias': False, 'kernel': True}

    Raises:
      ValueError: if there is none, or if a leaf of two or more axes has yet another
        name than `bias` and `scale`: such a mask would silently leave weights out.
    """
    left_out: list[str] = []
    seen: list[bool] = []

    def is_kernel(path: KeyPath, leaf: Any) -> Any:
        keys = [key for key in path if key != GetAttrKey("value")]
        name = keystr(tuple(keys[-1:]), simple=True)
        seen.append(name in DECAYED)
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        if name not in (*DECAYED, "bias", "scale") and np.ndim(leaf) > 1:
            left_out.append(keystr(path) or "the tree")
        return name in DECAYED

    mask = tree_map_with_path(
        is_kernel, params, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    if left_out or not any(seen):
        found = f"leave out {', '.join(left_out)}" if left_out else "decay nothing"
        raise ValueError(
            f"weight decay would {found}: expected weights named {', '.join(DECAYED)}"
        )
    return mask


def l2_sgd(
    learning_rate: Scalar, weight_decay: Scalar, momentum: float = 0.0
) -> optax.GradientTransformation:
    """Return `torch.optim.SGD` with its `weight_decay`, on the kernels alone.

    Raises:
      ValueError: if `weight_decay` is a Python number and negative or not finite, if
        `momentum` is outside [0, 1), and, from `init`, if there is no kernel.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    sgd = optax.sgd(learning_rate, momentum=momentum or None)
    return optax.chain(_add_l2_gradient(weight_decay), sgd)


def l2_adam(
    learning_rate: Scalar, weight_decay: Scalar
) -> optax.GradientTransformation:
    """Return `torch.optim.Adam` with its `weight_decay`, on the kernels alone.

    Adam rescales the gradient of the penalty together with that of the loss. AdamW
    (Loshchilov and Hutter, ICLR 2019) is another algorithm: besides the step of Adam,
    it subtracts `learning_rate * weight_decay` times each weight. It is
    `optax.adamw(learning_rate, weight_decay=weight_decay, mask=kernel_mask)`.

    Raises:
      ValueError: as `l2_sgd` does.
    """
    return optax.chain(_add_l2_gradient(weight_decay), optax.adam(learning_rate))


def _add_l2_gradient(weight_decay: Scalar) -> optax.GradientTransformation:
    _check_coefficient("weight_decay", weight_decay)
    return optax.add_decayed_weights(weight_decay, mask=kernel_mask)


def _check_coefficient(name: str, value: Scalar) -> None:
    if not isinstance(value, Array) and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
