# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Initialisation (D2L 5.4)
#
# A signal that passes through many layers is multiplied by many matrices. Unless
# their scale is right, the signal explodes or vanishes, and so does the gradient on
# its way back.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax import deep_mlp
from ch4jax.initialization import he_normal, normal, product_log_norms, sigmoid_gradient

for std in (1.0, 0.5, 0.25):
    logs = product_log_norms(100, 4, std, key=jax.random.key(0))
    plt.plot(logs / np.log(10), label=f"entries from N(0, {std}²)")
plt.xlabel("4 x 4 matrices multiplied")
plt.ylabel("decimal logarithm of the norm")
plt.legend()
plt.show()

# %% [markdown]
# With each matrix, the squared norm grows by a factor of `4 * std**2` on average, which
# is 1 for a standard deviation of 0.5. Xavier's and He's initialisations choose their
# scales in this way. A sigmoid makes matters worse: it passes on at most a quarter of
# the gradient.

# %%
print("gradient at 0, 2, 4, 8:", sigmoid_gradient(jnp.array([0.0, 2.0, 4.0, 8.0])))

# %% [markdown]
# The same happens in a perceptron with twenty hidden ReLU layers, before any training.

# %%
x_key, *init_keys = jax.random.split(jax.random.key(1), 3)
x, labels = jax.random.normal(x_key, (32, 32)), jnp.arange(32)
architecture = deep_mlp.Architecture(jax.nn.relu)
signal = jax.jit(deep_mlp.signal, static_argnames="architecture")
inits, sizes = {"N(0, 0.01²)": normal(0.01), "He": he_normal}, {}
for key, (name, init) in zip(init_keys, inits.items(), strict=True):
    params = deep_mlp.init_params(32, 32, 20, 32, init, key=key)
    sizes[name] = signal(params, x, labels, architecture=architecture).size
    plt.semilogy(range(1, 21), sizes[name], label=name)
plt.xlabel("layer")
plt.ylabel("size of the activations")
plt.legend()
plt.show()
assert sizes["N(0, 0.01²)"][-1] < 1e-10 < 0.1 < sizes["He"][-1] < 10

# %% [markdown]
# **To try.** Keep N(0, 0.01²), but make the architecture
# `deep_mlp.Architecture(jax.nn.relu, residual=True)`. What does a residual connection
# do to the signal?
