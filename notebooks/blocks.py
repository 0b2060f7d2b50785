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
# Modules are made of modules. A Flax module holds no parameters: `init` returns them
# and `apply` takes them, so both are pure functions. `MySequential` of this package
# does what `nn.Sequential` does: with the same parameters it returns the same numbers.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
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
    """Print the tree of modules; that needs shapes only, no parameters."""
    print(outline(jax.eval_shape(network.init, jax.random.key(0), x), name))


show(MLP(), "MLP")

# %% [markdown]
# `FixedHiddenMLP` uses one layer twice, multiplies by a constant that is never
# trained, and ends in a loop, which halves the output until its absolute values sum
# to at most 1.

# %%
network = FixedHiddenMLP()
variables = network.init(jax.random.key(1), x)
show(network, "FixedHiddenMLP")
print(
    "halvings of 1, 10, 100:",
    [int(count_halvings(jnp.array([n]))) for n in (1.0, 10.0, 100.0)],
)

# %% [markdown]
# Because of the loop, the output jumps wherever one more halving is needed. You can
# still differentiate it: the gradient treats the number of halvings as a constant.

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
# Blocks nest as deep as you like:

# %%
show(chimera(), "chimera")

# %% [markdown]
# **To try.** Write a block of your own that adds its input to the output of an `MLP`
# with `num_outputs=20`, and put two of them into `MySequential`.
