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
# Dropout sets each entry to zero with some probability and scales up the others, so
# that the expectation does not change. Randomness comes from a key, never from a
# hidden state: the same key drops the same entries.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax.dropout import dropout_layer, init_mlp, mlp

x = jnp.arange(16.0).reshape(2, 8)
for rate in (0.0, 0.5, 1.0):
    print(f"rate {rate}:", dropout_layer(x, rate, key=jax.random.key(0)), sep="\n")

# %% [markdown]
# The entries that remain are divided by `1 - rate`. So the mean over many masks is the
# input, but the larger the rate, the further a single mask is from it.

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
# In a network, dropout follows each hidden layer. With a key the network is noisy, as
# in training; with `key=None` it is not, as in prediction.

# %%
params = init_mlp((8, 8, 8, 8), std=0.1, key=jax.random.key(2))
noisy = [mlp(params, x, (0.2, 0.5), key=jax.random.key(seed)) for seed in (3, 4)]
quiet = [mlp(params, x, (0.2, 0.5), key=None) for _ in range(2)]
print("two keys agree:", np.array_equal(*noisy))
print("two evaluations agree:", np.array_equal(*quiet))

# %% [markdown]
# **To try.** Give both hidden layers the rate 0.9, and compare `noisy` with `quiet`.
# Would training with so much noise need more epochs, more units, or a larger learning
# rate? Run `python -m experiments.dropout --rates 0.9 0.9` to see.
