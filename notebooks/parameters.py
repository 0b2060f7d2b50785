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
# The parameters of a module are a tree of arrays. They are found by path, and setting
# one makes a new tree: the old one stays as it was.

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
from flax import linen as nn

from ch4jax import initialization, parameters

network = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1)))
variables = network.init(jax.random.key(0), jnp.ones((2, 4)))
for leaf in parameters.summary(variables):
    print(f"{leaf.path:24} {leaf.shape!s:8} {leaf.num_bytes} bytes")

# %% [markdown]
# `get` and `replace` take a path; a rule of `reinitialize` takes a pattern, in which
# `*` stands for anything.

# %%
path = "params/layers_0/kernel"
kernel = parameters.get(variables, path)
changed = parameters.replace(variables, path, kernel.at[0, 0].set(42.0))
print("old and new:", kernel[0, 0], parameters.get(changed, path)[0, 0])

rules = {"*/kernel": initialization.sparse_uniform}
drawn = parameters.reinitialize(variables, rules, key=jax.random.key(1))
for i, tree in enumerate((variables, drawn)):
    plt.subplot(1, 2, i + 1, title=("as Flax draws it", "drawn anew")[i])
    plt.imshow(parameters.get(tree, path), cmap="RdBu")
plt.show()

# %% [markdown]
# A layer that is used twice is stored once, and its gradient is the sum over its
# uses. To see that, shapes are enough: `jax.eval_shape` draws nothing.

# %%
shared = parameters.SharedMLP()
params = jax.eval_shape(shared.init, jax.random.key(3), jnp.ones((1, 8)))["params"]
print(parameters.outline(params, "SharedMLP"))
print("entries:", parameters.count(params))
assert parameters.count(params) == 2 * (8 * 8 + 8) + (8 + 1)

# %% [markdown]
# **To try.** Ask for a path that does not exist, `params/layer_0/kernel` say, and
# read the error. Then freeze the first layer with `parameters.freeze` and train the
# second.
