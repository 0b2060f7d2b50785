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
# One hidden layer, cross-entropy and an L2 penalty. Every quantity of the forward pass
# has a name, and the chain rule gives the gradient of the objective with respect to
# each of them.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
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
# The backward pass goes from `J` to the weights. Of the forward pass it needs `h` and
# `o`, and nothing else.

# %%
by_hand = jax.jit(backprop.backward)(params, x, labels, 0.01, kept)
by_jax = jax.jit(backprop.autodiff)(params, x, labels, 0.01)
for name, gradient in by_hand._asdict().items():
    off = np.abs(np.asarray(gradient) - getattr(by_jax, name)).max()
    print(f"{name:2} {gradient.shape!s:8} off by {off:.1e}")
    assert off < 1e-6

# %% [markdown]
# You can also check a gradient without trusting any derivation: take a step forward
# and a step back, and divide the difference by their distance. If the step is too
# long, the result is not a derivative; if it is too short, float32 rounding hides it.


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
# **To try.** Put everything under `with jax.enable_x64(True):`. Where does the minimum
# of the last figure move?
