# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # House prices (D2L 5.7)
#
# A Kaggle competition from the table to the error that counts: the root mean squared
# error of the *logarithm* of the price, on houses that the model has never seen.

# %%
# Installs ch4jax where it is not yet: from a clone, if this runs in one.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("ch4jax") is None:
    clones = [folder for folder in ("..", ".") if Path(folder, "ch4jax").is_dir()]
    if not clones:
        raise ModuleNotFoundError("ch4jax: run this in a clone of its repository")
    install = [sys.executable, "-m", "pip", "install", "-q", clones[0]]
    subprocess.run(install, check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax import house_prices
from ch4jax.training import folds

data = house_prices.read("shipped")
encoded = house_prices.encode(data.train, data.test)
x = jnp.asarray(encoded.train, float)
prices = jnp.asarray(data.train["SalePrice"].to_numpy(), float)
print(f"{data.train.shape[1]} columns become {x.shape[1]} features")

# %% [markdown]
# Numbers are standardised, and each category gets a column of zeros and ones. A fold
# is a mask over the rows: true where the fold trains. All five models are trained at
# once, in one program.

# %%
in_training = folds.k_fold(len(prices), 5)
setting = house_prices.Setting(jnp.array([5.0]), jnp.array([0.0]))
params, history = house_prices.train_linear(
    setting,
    x,
    prices,
    in_training,
    epochs=100,
    batch_size=64,
    steps=folds.steps_per_epoch(in_training, 64),
    keys=jax.random.split(jax.random.key(0), (5, 1)),
)
curves = np.sqrt(history["valid_squared_log_error"])[0, :, 0]
plt.semilogy(curves.T)
plt.xlabel("epoch")
plt.ylabel("log RMSE on the fold that is left out")
plt.show()
print(f"five folds: {curves[:, -1].mean():.4f}")
assert 0.15 < curves[:, -1].mean() < 0.2

# %% [markdown]
# Each house is left out of exactly one fold, so each can be predicted by a model that
# never saw it.

# %%
by_fold = jax.tree.map(lambda p: p[0, :, 0], params)
of_fold = jax.vmap(house_prices.linear, (0, None))(by_fold, x)
predicted = np.where(in_training, 0.0, of_fold).sum(axis=0)
plt.loglog(prices, predicted, ".", markersize=3)
plt.loglog(prices, prices)
plt.xlabel("true price ($)")
plt.ylabel("predicted price ($)")
plt.show()

# %% [markdown]
# **To try.** The curves are still falling. Which learning rate and how many epochs
# bring them lowest, and does a weight decay of 1 help? What a search over such
# settings finds: `python -m experiments.house_prices --recipe search`.
