# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Backpropagation by hand (D2L 5.3)
#
# One hidden layer, cross-entropy and an L2 penalty: every quantity of the forward
# pass has a name, and the gradient of the objective in each of them is written out by
# the chain rule.

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

from ch4jax import backprop

init_key, x_key = jax.random.split(jax.random.key(0))
params = backprop.init_params(8, 8, 3, key=init_key)
x = jax.random.normal(x_key, (8, 8))
labels = jnp.arange(8) % 3
kept = jax.jit(backprop.forward)(params, x, labels, 0.01)
print(f"L = {kept.L:.4f}, s = {kept.s:.4f}, J = L + s = {kept.J:.4f}")

# %% [markdown]
# The backward pass goes from `J` to the weights. It needs `h` and `o` of what the
# forward pass computed, and nothing else.

# %%
by_hand = jax.jit(backprop.backward)(params, x, labels, 0.01, kept)
by_jax = jax.jit(backprop.autodiff)(params, x, labels, 0.01)
for name, gradient in by_hand._asdict().items():
    off = np.abs(np.asarray(gradient) - getattr(by_jax, name)).max()
    print(f"{name:2} {gradient.shape!s:8} off by {off:.1e}")
    assert off < 1e-6

# %% [markdown]
# A gradient can also be checked without trusting any derivation: go a step forward
# and a step back, and divide. Too long a step is not a derivative, too short a one
# drowns in the rounding of float32.


# %%
def objective(params):
    return backprop.forward(params, x, labels, 0.01).J


@jax.jit
@jax.vmap
def difference(step):
    ones = jax.tree.map(jnp.ones_like, params)
    return backprop.directional_difference(objective, params, ones, step)


steps = np.logspace(-6, 0, 30, dtype=np.float32)
slope = np.sum(by_hand.w1) + np.sum(by_hand.w2)
errors = np.abs(difference(steps) / slope - 1)
plt.loglog(steps, errors)
plt.xlabel("step")
plt.ylabel("relative error of the difference")
plt.show()
assert errors.min() < 1e-3 < errors[0]

# %% [markdown]
# **To try.** Put all of it under `with jax.enable_x64(True):` and see where the
# valley of the last figure goes.
