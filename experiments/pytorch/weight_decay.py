"""Linear regression with an L2 penalty (D2L 3.7) on both sides."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ch4jax import training, weight_decay
from ch4jax.data import synthetic
from ch4jax.parity import Pair
from experiments.pytorch.systems import Ours, Outcome, System, Theirs, keys_of, sgd

LAMBD, RATE = 3.0, 0.003


def pair(
    ours: optax.GradientTransformation,
    make: Callable[..., torch.optim.Optimizer],
    **options: float,
) -> Pair:
    """Return an optimiser with PyTorch's, which decays the weight alone."""

    def theirs(parameters: Iterable[nn.Parameter]) -> Callable[[], None]:
        weight, bias = parameters
        decayed = {"params": [weight], "weight_decay": LAMBD}
        groups = [decayed, {"params": [bias], "weight_decay": 0.0}]
        return make(groups, lr=RATE, **options).step

    return Pair(ours, theirs)


OPTIMIZERS = {
    "SGD with L2": pair(weight_decay.l2_sgd(RATE, LAMBD), torch.optim.SGD),
    "momentum with L2": pair(
        weight_decay.l2_sgd(RATE, LAMBD, momentum=0.9), torch.optim.SGD, momentum=0.9
    ),
    "Adam with L2": pair(weight_decay.l2_adam(RATE, LAMBD), torch.optim.Adam),
    "AdamW": pair(
        optax.adamw(RATE, weight_decay=LAMBD, mask=weight_decay.kernel_mask),
        torch.optim.AdamW,
    ),
}


def penalised_loss(module: nn.Module, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the book's loss from scratch, which adds the penalty to each row."""
    penalty = module.get_parameter("weight").square().sum() / 2
    return ((outputs - labels) ** 2 / 2 + LAMBD * penalty).mean()


def run_scratch(
    system: System, params: PyTree, data: training.Data, key: PRNGKeyArray
) -> PyTree:
    """Train by `weight_decay.train`, which has an SGD of its own."""
    return weight_decay.train(
        params,
        data,
        LAMBD,
        learning_rate=RATE,
        epochs=system.epochs,
        batch_size=system.batch_size,
        key=keys_of(key)[1],
    )[0]


def systems(rows: int = 20, num_inputs: int = 200) -> list[System]:
    """Return linear regression with an L2 penalty, concise and from scratch."""
    w = jnp.full((num_inputs, 1), 0.01)
    train_key, test_key = jax.random.split(jax.random.key(0))
    with jax.enable_x64(False):
        data = synthetic.linear_regression(w, 0.05, rows, key=train_key)
        test = synthetic.linear_regression(w, 0.05, 100, key=test_key)
    data, test = ((np.asarray(x, float), np.asarray(y, float)) for x, y in (data, test))

    def init(key: PRNGKeyArray) -> PyTree:
        """Draw the bias too, as the book does it here: a decayed bias would show."""
        params = weight_decay.init_params(num_inputs, key=key)
        return {**params, "bias": jax.random.normal(jax.random.fold_in(key, 1), (1,))}

    def scratch_losses(params: PyTree, outputs: Array, labels: Array) -> Array:
        errors = weight_decay.squared_loss(outputs, labels)[:, 0]
        return errors + LAMBD * weight_decay.l2_penalty(params["kernel"])

    def module() -> nn.Module:
        linear = nn.Linear(num_inputs, 1)
        for parameter in linear.parameters():
            nn.init.normal_(parameter)
        return linear

    def zero_bias() -> nn.Module:
        linear = module()
        nn.init.zeros_(linear.get_parameter("bias"))
        return linear

    concise = System(
        "weight decay, concise",
        data,
        Ours(
            init,
            lambda params, x, _: weight_decay.linreg(params, x),
            lambda _, outputs, labels: jnp.square(outputs - labels)[:, 0],
        ),
        Theirs(module, lambda _, outputs, labels: mse_loss(outputs, labels)),
        OPTIMIZERS,
        epochs=100,
        batch_size=5,
    )
    scratch = concise._replace(
        name="weight decay, scratch",
        ours=concise.ours._replace(
            init=lambda key: weight_decay.init_params(num_inputs, key=key),
            row_losses=scratch_losses,
        ),
        theirs=Theirs(zero_bias, penalised_loss),
        optimizers={"SGD": sgd(RATE)},
        run=run_scratch,
        outcome=Outcome(
            "test RMSE",
            test=test,
            margin=0.02,
            runs=100,
            epochs=100,
            pair=sgd(RATE),
            score=lambda y, labels: jnp.sqrt(jnp.square(y - labels).mean()),
            torch_score=lambda y, labels: mse_loss(y, labels).sqrt(),
        ),
    )
    return [concise, scratch]
