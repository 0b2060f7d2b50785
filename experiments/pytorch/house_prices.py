"""The book's recipe for house prices (D2L 5.7) on both sides."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp

from ch4jax import house_prices
from ch4jax.training import folds
from experiments.pytorch.systems import Optimizers, Outcome, System, keys_of


def systems(num_rows: int | None = None) -> list[System]:
    """Return the book's recipe for house prices, on the first of five folds (5.7)."""
    tables = house_prices.read("shipped")
    x = house_prices.encode(tables.train, tables.test).train[:num_rows]
    prices = tables.train["SalePrice"].to_numpy(float)[:num_rows]
    in_training = folds.k_fold(len(x), 5)[0]
    batch_size, epochs, rate = 64, 100, 5.0
    steps = folds.steps_per_epoch(in_training, batch_size)

    def predict(params: Any, x: Any, *, key: Any) -> Any:
        del key
        return house_prices.linear(params, x)

    def batches(system: System, key: Any) -> Iterator[Any]:
        deal = jax.jit(
            lambda key: folds.shuffled_batches(
                jnp.asarray(in_training), batch_size, steps, key=key
            )
        )
        for epoch in range(system.epochs):
            epoch_key = jax.random.fold_in(keys_of(key)[1], epoch)
            shuffle_key, step_key = jax.random.split(epoch_key)
            for rows, real in zip(*map(np.asarray, deal(shuffle_key)), strict=True):
                yield rows, real, jax.random.clone(step_key)

    def run(system: System, data: Any, key: Any, optimizer: Any, epochs: int) -> Any:
        del system, optimizer  # the room has its own Adam
        params, _ = house_prices.train_linear(
            house_prices.Setting(jnp.array([rate]), jnp.array([0.0])),
            *data,
            jnp.asarray(in_training)[None],
            epochs=epochs,
            batch_size=batch_size,
            steps=steps,
            keys=key[None, None],
        )
        return jax.tree.map(lambda leaf: leaf[0, 0, 0], params)

    def score(params: Any) -> Any:
        held_out = jnp.asarray(x[~in_training], float)
        predictions = house_prices.linear(params, held_out)
        return house_prices.log_rmse(
            predictions, jnp.asarray(prices[~in_training], float)
        )

    def torch_score(module: Any) -> float:
        held_out = torch.tensor(x[~in_training], dtype=torch.float32)
        true = torch.tensor(prices[~in_training], dtype=torch.float32)
        predicted = torch.clamp(module(held_out)[:, 0], 1, float("inf"))
        return torch.nn.functional.mse_loss(predicted.log(), true.log()).sqrt().item()

    adam: Optimizers = (
        optax.adam(rate),
        lambda m: torch.optim.Adam(m.parameters(), lr=rate),
    )
    with_l2: Optimizers = (
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(rate)),
        lambda m: torch.optim.Adam(m.parameters(), lr=rate, weight_decay=0.1),
    )
    return [
        System(
            "house prices",
            data=(x, prices),
            init=lambda key: house_prices.init_linear(x.shape[1], key=key),
            predict=predict,
            row_losses=lambda _, outputs, y: jnp.square(outputs - y),
            module=lambda: torch.nn.Linear(x.shape[1], 1),
            loss=lambda _, outputs, y: torch.nn.functional.mse_loss(outputs[:, 0], y),
            optimizers={"Adam": adam, "Adam with L2": with_l2},
            epochs=epochs,
            batch_size=batch_size,
            in_training=in_training,
            batches=batches,
            run=run,
            outcome=Outcome(
                metric="validation log-RMSE",
                margin=0.005,
                runs=30,
                epochs=epochs,
                optimizers=adam,
                score=score,
                torch_score=torch_score,
            ),
        )
    ]
