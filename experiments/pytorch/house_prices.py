"""The book's recipe for house prices (D2L 5.7) on both sides."""

import jax
import numpy as np
import optax
import torch
from jax import numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ch4jax import house_prices, training
from ch4jax.parity import Pair
from ch4jax.training import folds
from experiments.pytorch.systems import Batches, Ours, Outcome, System, Theirs, keys_of

RATE = 5.0


def systems(num_rows: int | None = None) -> list[System]:
    """Return the book's recipe for house prices, on the first of five folds."""
    tables = house_prices.read("shipped")
    x = house_prices.encode(tables.train, tables.test).train[:num_rows]
    prices = tables.train["SalePrice"].to_numpy(float)[:num_rows]
    in_training = folds.k_fold(len(x), 5)[0]
    batch_size, epochs = 64, 100
    steps = folds.steps_per_epoch(in_training, batch_size)

    def batches(system: System, key: PRNGKeyArray) -> Batches:
        deal = jax.jit(folds.shuffled_batches, static_argnums=(1, 2))
        for epoch in range(system.epochs):
            epoch_key = jax.random.fold_in(keys_of(key)[1], epoch)
            shuffle_key, step_key = jax.random.split(epoch_key)
            dealt = deal(jnp.asarray(in_training), batch_size, steps, key=shuffle_key)
            for rows, real in zip(*map(np.asarray, dealt), strict=True):
                yield rows, real, jax.random.clone(step_key)

    def run(
        system: System, params: PyTree, data: training.Data, key: PRNGKeyArray
    ) -> PyTree:
        """Train by `train_linear`, which draws the same start and has its own Adam."""
        trained, _ = house_prices.train_linear(
            house_prices.Setting(jnp.array([RATE]), jnp.array([0.0])),
            *data,
            jnp.asarray(in_training)[None],
            epochs=system.epochs,
            batch_size=batch_size,
            steps=steps,
            keys=jax.random.clone(key)[None, None],
        )
        return jax.tree.map(lambda leaf: leaf[0, 0, 0], trained)

    def torch_log_rmse(outputs: Tensor, labels: Tensor) -> Tensor:
        clamped = torch.clamp(outputs[:, 0], 1, float("inf"))
        return mse_loss(clamped.log(), labels.log()).sqrt()

    adam = Pair(optax.adam(RATE), lambda p: torch.optim.Adam(p, lr=RATE).step)
    with_l2 = Pair(
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(RATE)),
        lambda p: torch.optim.Adam(p, lr=RATE, weight_decay=0.1).step,
    )
    return [
        System(
            "house prices",
            (x, prices),
            Ours(
                lambda key: house_prices.init_linear(x.shape[1], key=key),
                lambda params, rows, _: house_prices.linear(params, rows)[:, None],
                lambda _, outputs, labels: jnp.square(outputs[:, 0] - labels),
            ),
            Theirs(
                lambda: nn.Linear(x.shape[1], 1),
                lambda _, outputs, labels: mse_loss(outputs[:, 0], labels),
            ),
            {"Adam": adam, "Adam with L2": with_l2},
            epochs,
            batch_size,
            fold=np.flatnonzero(in_training),
            run=run,
            batches=batches,
            outcome=Outcome(
                "validation log-RMSE",
                test=(x[~in_training], prices[~in_training]),
                margin=0.005,
                runs=30,
                epochs=epochs,
                pair=adam,
                score=lambda y, prices: house_prices.log_rmse(y[:, 0], prices),
                torch_score=torch_log_rmse,
            ),
        )
    ]
