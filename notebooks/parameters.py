# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Parameters (D2L 6.2)
#
# The parameters of a module are a tree of arrays. You find them by path, and setting
# one makes a new tree: the old one does not change.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from flax import linen as nn

from ch4jax import initialization, parameters

network = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
variables = network.init(jax.random.key(0), jnp.ones((2, 4)))
for leaf in parameters.summary(variables):
    print(f"{leaf.path:24} {leaf.shape!s:8} {leaf.num_bytes} bytes")

# %% [markdown]
# `get` and `replace` take a path. `reinitialize` takes rules with patterns, in which
# `*` matches anything.

# %%
path = "params/layers_0/kernel"
kernel = parameters.get(variables, path)
changed = parameters.replace(variables, path, kernel.at[0, 0].set(42.0))
print("old and new:", kernel[0, 0], parameters.get(changed, path)[0, 0])

rules = {"*/kernel": initialization.sparse_uniform}
drawn = parameters.reinitialize(variables, rules, key=jax.random.key(1))
for i, tree in enumerate((variables, drawn)):
    plt.subplot(1, 2, i + 1, title=("as initialised by Flax", "re-initialised")[i])
    plt.imshow(parameters.get(tree, path), cmap="RdBu")
plt.show()

# %% [markdown]
# A layer that is used twice is stored once, and its gradient is the sum over its
# uses. `jax.eval_shape` shows what is stored without drawing any numbers.

# %%
shared = parameters.SharedMLP()
params = jax.eval_shape(shared.init, jax.random.key(3), jnp.ones((1, 8)))["params"]
print(parameters.outline(params, "SharedMLP"))
print("entries:", parameters.count(params))
assert parameters.count(params) == 2 * (8 * 8 + 8) + (8 + 1)

# %% [markdown]
# **To try.** Ask for a path that does not exist, for example `params/layer_0/kernel`,
# and read the error. Then freeze the first layer with `parameters.freeze` and train
# the second.
