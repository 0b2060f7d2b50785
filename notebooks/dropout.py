# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Dropout (D2L 5.6)
#
# A layer that drops each entry with some probability and makes the rest larger, so
# that the expectation stays what it was. Randomness comes from a key, never from a
# hidden state: the same key drops the same entries.

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

from ch4jax.dropout import dropout_layer, init_mlp, mlp

x = jnp.arange(16.0).reshape(2, 8)
for rate in (0.0, 0.5, 1.0):
    print(f"rate {rate}:", dropout_layer(x, rate, key=jax.random.key(0)), sep="\n")

# %% [markdown]
# Survivors are divided by `1 - rate`. So the mean over many masks is the input, but
# the larger the rate, the more a single mask strays from it.

# %%
for rate in (0.2, 0.5, 0.8):
    ones = dropout_layer(jnp.ones((2_000, 50)), rate, key=jax.random.key(1))
    means = np.mean(ones, axis=1)
    assert abs(means.mean() - 1) < 0.05
    plt.hist(means, bins=40, alpha=0.5, label=f"rate {rate}")
plt.xlabel("mean of 50 ones after dropout")
plt.legend()
plt.show()

# %% [markdown]
# In a network the layer stands after each hidden layer. With a key, the network is
# the noisy one that is trained; with `key=None` it is the one that predicts.

# %%
params = init_mlp((8, 8, 8, 8), std=0.1, key=jax.random.key(2))
noisy = [mlp(params, x, (0.2, 0.5), key=jax.random.key(seed)) for seed in (3, 4)]
quiet = [mlp(params, x, (0.2, 0.5), key=None) for _ in range(2)]
print("two keys agree:", np.array_equal(*noisy))
print("two evaluations agree:", np.array_equal(*quiet))

# %% [markdown]
# **To try.** Give both hidden layers the rate 0.9, and compare `noisy` with `quiet`.
# What would training on such noise need more of: epochs, units, or learning rate?
# `python -m experiments.dropout --rates 0.9 0.9` tells.
