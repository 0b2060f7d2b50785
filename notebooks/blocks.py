# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Blocks (D2L 6.1)
#
# A module is made of modules. In Flax it holds no parameters: `init` returns them and
# `apply` takes them, so that both are pure functions. `MySequential` of this package
# is `nn.Sequential`: with the same parameters it returns the same numbers.

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
from flax import linen as nn

from ch4jax.blocks import MLP, FixedHiddenMLP, MySequential, chimera, count_halvings
from ch4jax.parameters import outline

x = jnp.linspace(0.0, 1.0, 40).reshape(2, 20)
layers = (nn.Dense(256), nn.relu, nn.Dense(10))
variables = nn.Sequential(layers).init(jax.random.key(0), x)
theirs = nn.Sequential(layers).apply(variables, x)
ours = MySequential(layers).apply(variables, x)
assert np.array_equal(ours, theirs)


def show(network, name):
    """Print the tree; shapes are enough for that, and nothing is drawn."""
    print(outline(jax.eval_shape(network.init, jax.random.key(0), x), name))


show(MLP(), "MLP")

# %% [markdown]
# `FixedHiddenMLP` uses one layer twice, multiplies by a constant that is never
# trained, and ends in a loop: the output is halved until its absolute values sum to 1
# at most.

# %%
network = FixedHiddenMLP()
variables = network.init(jax.random.key(1), x)
show(network, "FixedHiddenMLP")
print(
    "halvings of 1, 10, 100:",
    [int(count_halvings(jnp.array([n]))) for n in (1.0, 10.0, 100.0)],
)

# %% [markdown]
# The loop makes the network jump wherever one more halving is needed, and its
# gradient halve. It can be differentiated all the same: the number of halvings is
# taken as given.

# %%
factors = np.logspace(-2, 2, 300, dtype=np.float32)
pair = np.stack([x[0], -x[0]])
values = jax.jit(jax.vmap(lambda factor: network.apply(variables, factor * pair)))
plt.semilogx(factors, values(factors))
plt.xlabel("factor on the rows")
plt.ylabel("output")
plt.show()
assert np.abs(values(factors)).max() <= 1

# %% [markdown]
# Blocks nest without end:

# %%
show(chimera(), "chimera")

# %% [markdown]
# **To try.** Write a block of your own that adds its input to the output of an `MLP`
# with `num_outputs=20`, and put two of them into `MySequential`.
