# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Custom layers (D2L 6.5)
#
# A layer without parameters, a layer with parameters, and how to check that a layer
# learns.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn

from ch4jax.layers import CenteredLayer, MyLinear

print(CenteredLayer().apply({}, jnp.arange(1.0, 6.0)))
y, variables = MyLinear(16, 8).init_with_output(jax.random.key(0), jnp.ones((2, 16)))
print(f"output {y.shape}, parameters {list(variables['params'])}")

# %% [markdown]
# Both work in any network. This one learns the ReLU of a sum twice: once as it is, and
# once with the gradient of `MyLinear` stopped, which is what reading weights through
# `.data` does in PyTorch.

# %%
network = nn.Sequential((MyLinear(16, 8), CenteredLayer(), nn.Dense(1)))
x = jax.random.normal(jax.random.key(1), (128, 16))
target = nn.relu(x.sum(axis=1))
start = network.init(jax.random.key(2), x)["params"]
optimizer = optax.adam(0.01)


def loss(params, stopped):
    first = jax.lax.cond(
        stopped, jax.lax.stop_gradient, lambda p: p, params["layers_0"]
    )
    y = network.apply({"params": params | {"layers_0": first}}, x)
    return optax.l2_loss(y[:, 0], target).mean()


def train(stopped):
    def step(state, _):
        params, opt_state = state
        value, gradient = jax.value_and_grad(loss)(params, stopped)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    return jax.lax.scan(step, (start, optimizer.init(start)), length=300)[1]


curves = jax.jit(jax.vmap(train))(jnp.array([False, True]))

# %%
plt.plot(curves[0], label="MyLinear learns")
plt.plot(curves[1], "--", label="its gradient is stopped")
plt.xlabel("step")
plt.ylabel("half squared error")
plt.legend()
plt.show()
assert curves[0, -1] < curves[1, -1]

# %% [markdown]
# **To try.** Write `Scale`, a layer that multiplies its input by one parameter. Put it
# before `MyLinear`, and look at the value that it learns.
