"""Linear regression with an L2 penalty (D2L 3.7) on both sides."""

from typing import Any

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp

from ch4jax import weight_decay
from ch4jax.data import synthetic
from experiments.pytorch.systems import Optimizers, Outcome, System, keys_of, sgd, start


def systems(rows: int = 20, num_inputs: int = 200) -> list[System]:
    """Return linear regression with an L2 penalty, concise and from scratch (3.7)."""
    lambd, rate = 3.0, 0.003
    w = jnp.full((num_inputs, 1), 0.01)
    train_key, test_key = jax.random.split(jax.random.key(0))
    with jax.enable_x64(False):
        data = synthetic.linear_regression(w, 0.05, rows, key=train_key)
        test = synthetic.linear_regression(w, 0.05, 100, key=test_key)
    data, test = ((np.asarray(x, float), np.asarray(y, float)) for x, y in (data, test))

    def predict(params: Any, x: Any, *, key: Any) -> Any:
        del key
        return weight_decay.linreg(params, x)

    def init(key: Any) -> Any:
        """Draw the bias too, as the book does it here: a decayed bias would show."""
        params = weight_decay.init_params(num_inputs, key=key)
        return {**params, "bias": jax.random.normal(jax.random.fold_in(key, 1), (1,))}

    def module() -> torch.nn.Linear:
        linear = torch.nn.Linear(num_inputs, 1)
        for parameter in linear.parameters():
            torch.nn.init.normal_(parameter)
        return linear

    def zero_bias() -> torch.nn.Linear:
        linear = module()
        torch.nn.init.zeros_(linear.bias)
        return linear

    def groups(module: Any) -> list[dict[str, Any]]:
        decayed = {"params": [module.weight], "weight_decay": lambd}
        return [decayed, {"params": [module.bias], "weight_decay": 0.0}]

    def scratch_loss(module: Any, outputs: Any, y: Any) -> torch.Tensor:
        penalty = module.weight.square().sum() / 2
        return ((outputs - y) ** 2 / 2 + lambd * penalty).mean()

    def scratch_run(
        system: System, data: Any, key: Any, optimizer: Any, epochs: int
    ) -> Any:
        del optimizer  # the room's own SGD
        return weight_decay.train(
            start(system, key),
            data,
            lambd,
            learning_rate=rate,
            epochs=epochs,
            batch_size=system.batch_size,
            key=keys_of(key)[1],
        )[0]

    def rmse(params: Any) -> Any:
        x, y = (jnp.asarray(a, float) for a in test)
        return jnp.sqrt(2 * weight_decay.mean_loss(params, (x, y)))

    def torch_rmse(module: Any) -> float:
        x, y = (torch.tensor(a, dtype=torch.float32) for a in test)
        return torch.nn.functional.mse_loss(module(x), y).sqrt().item()

    adamw = optax.adamw(rate, weight_decay=lambd, mask=weight_decay.kernel_mask)
    optimizers: dict[str, Optimizers] = {
        "SGD with L2": (
            weight_decay.l2_sgd(rate, lambd),
            lambda m: torch.optim.SGD(groups(m), lr=rate),
        ),
        "momentum with L2": (
            weight_decay.l2_sgd(rate, lambd, momentum=0.9),
            lambda m: torch.optim.SGD(groups(m), lr=rate, momentum=0.9),
        ),
        "Adam with L2": (
            weight_decay.l2_adam(rate, lambd),
            lambda m: torch.optim.Adam(groups(m), lr=rate),
        ),
        "AdamW": (adamw, lambda m: torch.optim.AdamW(groups(m), lr=rate)),
    }
    concise = System(
        "weight decay, concise",
        data=data,
        init=init,
        predict=predict,
        row_losses=lambda _, outputs, y: jnp.square(outputs - y)[:, 0],
        module=module,
        loss=lambda _, outputs, y: torch.nn.functional.mse_loss(outputs, y),
        optimizers=optimizers,
        epochs=100,
        batch_size=5,
    )
    plain = sgd(rate)
    scratch = concise._replace(
        name="weight decay, scratch",
        row_losses=lambda params, outputs, y: (
            weight_decay.squared_loss(outputs, y)[:, 0]
            + lambd * weight_decay.l2_penalty(params["kernel"])
        ),
        loss=scratch_loss,
        optimizers={"SGD": plain},
        run=scratch_run,
        init=lambda key: weight_decay.init_params(num_inputs, key=key),
        module=zero_bias,
        outcome=Outcome(
            metric="test RMSE",
            margin=0.02,
            runs=100,
            epochs=100,
            optimizers=plain,
            score=rmse,
            torch_score=torch_rmse,
        ),
    )
    return [concise, scratch]
