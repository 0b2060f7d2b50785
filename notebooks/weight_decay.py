# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Weight decay (D2L 3.7)
#
# A model learns two hundred weights from twenty rows: it fits them exactly, and is
# useless on new data. A penalty on the size of the weights changes that.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax.data.synthetic import linear_regression
from ch4jax.weight_decay import init_params, mean_loss, train

data_key, init_key, key = jax.random.split(jax.random.key(0), 3)
w = jnp.full((200, 1), 0.01)
x, y = linear_regression(w, 0.05, 120, key=data_key)
train_data, test_data = (x[:20], y[:20]), (x[20:], y[20:])
params = init_params(200, key=init_key)

# %% [markdown]
# `train` minimises the mean of half the squared error plus lambda times half the
# squared norm of the weights. It is a pure function, so with `jax.vmap` one program
# trains for every lambda at once.

# %%
lambdas = np.concatenate([[0], np.logspace(-3, 2, 30)]).astype(np.float32)
train_all = jax.vmap(lambda lambd: train(params, train_data, lambd, key=key))
fitted, _ = train_all(lambdas)
mean_losses = jax.jit(jax.vmap(mean_loss, (0, None)))
on_train = np.asarray(mean_losses(fitted, train_data))
on_test = np.asarray(mean_losses(fitted, test_data))
norms = np.linalg.norm(fitted["kernel"], axis=(1, 2))
print(f"lambda 0: training loss {on_train[0]:.2g}, test loss {on_test[0]:.2g}")
assert on_train[0] < 1e-3 < 1 < on_test[0]

# %% [markdown]
# Without the penalty the training loss is almost zero, and the test loss is large. The
# larger lambda is, the smaller the weights are, and the better they predict, because
# the true weights are small.

# %%
plt.loglog(lambdas[1:], on_train[1:], label="training loss")
plt.loglog(lambdas[1:], on_test[1:], label="test loss")
plt.loglog(lambdas[1:], norms[1:], "--", label="norm of the weights")
plt.xlabel("lambda")
plt.legend()
plt.show()
assert norms[-1] < norms[1]
assert on_test[-1] < on_test[1]

# %% [markdown]
# **To try.** Make the true weights ten times as large, `jnp.full((200, 1), 0.1)`.
# Which lambda is best now, and why is it not the largest any more?
