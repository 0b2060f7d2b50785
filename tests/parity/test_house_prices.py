"""The book's recipe against PyTorch: same parameters, same batches, all 100 epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from support import relative_difference

from ch4jax import house_prices
from ch4jax.parity import difference
from ch4jax.training import folds
from experiments.pytorch.systems import as_tree, carried

EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 100, 64, 0.3


def torch_run(start, x, prices, in_training, steps, key):
    """Train as the book does, on the batches of `folds.fit`; return also the curves."""
    deal = jax.jit(folds.shuffled_batches, static_argnums=(1, 2))
    x, prices = torch.tensor(x), torch.tensor(prices)
    net, loss = carried(start, torch.nn.Linear(x.shape[1], 1)), torch.nn.MSELoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=5.0, weight_decay=WEIGHT_DECAY)
    curves = {"train": [], "valid": []}
    for epoch in range(EPOCHS):
        shuffle_key, _ = jax.random.split(jax.random.fold_in(key, epoch))
        dealt = deal(jnp.array(in_training), BATCH_SIZE, steps, key=shuffle_key)
        for rows, real in zip(*map(np.asarray, dealt), strict=True):
            optimizer.zero_grad()
            loss(net(x[rows[real]])[:, 0], prices[rows[real]]).backward()
            optimizer.step()
        for name, rows in (("train", in_training), ("valid", ~in_training)):
            clamped = torch.clamp(net(x[rows])[:, 0].detach(), 1, float("inf"))
            curves[name].append(loss(clamped.log(), prices[rows].log()).sqrt())
    return as_tree(net, start), curves


def test_a_hundred_epochs_of_two_folds_are_pytorchs(x64):
    tables = house_prices.read("shipped")
    x = house_prices.encode(tables.train, tables.test).train
    prices = tables.train["SalePrice"].to_numpy(float)
    in_training = folds.k_fold(len(x), 5)[[0, 3]]
    steps = folds.steps_per_epoch(in_training, BATCH_SIZE)
    keys = jax.random.split(jax.random.key(0), (2, 1))
    setting = house_prices.Setting(jnp.array([5.0]), jnp.array([WEIGHT_DECAY]))
    ours, history = house_prices.train_linear(
        setting,
        *map(jnp.array, (x, prices, in_training)),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        steps=steps,
        keys=jax.random.clone(keys),
    )
    for fold, mask in enumerate(in_training):
        init_key, train_key = jax.random.split(keys[fold, 0])
        start = house_prices.init_linear(x.shape[1], key=init_key)
        theirs, curves = torch_run(start, x, prices, mask, steps, train_key)
        trained = jax.tree.map(lambda leaf, fold=fold: leaf[0, fold, 0], ours)
        assert difference(trained, theirs) < 1e-12
        for name, curve in curves.items():
            squares = history[f"{name}_squared_log_error"][0, fold, 0]
            assert relative_difference(np.sqrt(squares), curve) < 1e-12
