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
# A Kaggle competition, from the table to the error that Kaggle uses: the root mean
# squared error of the *logarithm* of the price, on houses that the model has not seen.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository. On Kaggle, make a
# wheel with pip wheel --no-deps ., add it as a data set, and pip install it from there.
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax import house_prices
from ch4jax.training import folds

data = house_prices.read("auto")  # on Kaggle, the tables of the competition
encoded = house_prices.encode(data.train, data.test)
x = jnp.asarray(encoded.train, float)
prices = jnp.asarray(data.train["SalePrice"].to_numpy(), float)
print(f"{data.train.shape[1]} columns become {x.shape[1]} features")

# %% [markdown]
# Numbers are standardised, and each category becomes a column of zeros and ones. A
# fold is a mask over the rows: true for the rows that it trains on. One program trains
# all five models at once.

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
plt.ylabel("log RMSE on the rows left out")
plt.show()
print(f"five folds: {curves[:, -1].mean():.4f}")
assert 0.15 < curves[:, -1].mean() < 0.2

# %% [markdown]
# Each house is left out of exactly one training set, so a model that has not seen it
# can predict its price.

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
# For the competition, train on every row and write the file that Kaggle takes. In its
# notebooks the file lands in the output, where you can submit it.

# %%
everything = np.ones((1, len(prices)), bool)
whole, _ = house_prices.train_linear(
    setting,
    x,
    prices,
    everything,
    epochs=100,
    batch_size=64,
    steps=folds.steps_per_epoch(everything, 64),
    keys=jax.random.split(jax.random.key(1), (1, 1)),
)
member = jax.tree.map(lambda p: p[0, 0, 0], whole)
predicted = house_prices.linear(member, jnp.asarray(encoded.test, float))
kaggle = Path("/kaggle/working")
path = (kaggle if kaggle.is_dir() else Path(mkdtemp())) / "submission.csv"
house_prices.write_submission(path, data.test["Id"].to_numpy(), np.asarray(predicted))
print(path)

# %% [markdown]
# **To try.** The curves are still falling. Which learning rate and how many epochs
# give the lowest error, and does a weight decay of 1 help? To search over such
# settings, run `python -m experiments.house_prices --recipe search`.
