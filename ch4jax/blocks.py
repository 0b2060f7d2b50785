"""Blocks (D2L 6.1): modules made of modules, and a forward pass that has a loop."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int


class MLP(nn.Module):
    """Perceptron with one hidden ReLU layer.

    Attributes:
      num_hidden: width of the hidden layer.
      num_outputs: width of the output.
    """

    num_hidden: int = 256
    num_outputs: int = 10

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch out"]:
        """Return the outputs of the second layer, without an activation."""
        h = nn.relu(nn.Dense(self.num_hidden, name="hidden")(x))
        return nn.Dense(self.num_outputs, name="out")(h)


class MySequential(nn.Module):
    """Layers applied one after the other, as in `nn.Sequential`.

    Attributes:
      layers: modules and plain functions, in a tuple: with a list, the module is not
        hashable. The parameters of layer i are called `layers_i`.
    """

    layers: Sequence[Callable[[Array], Array]]

    def __call__(self, x: Array) -> Array:
        """Return the output of the last layer."""
        for layer in self.layers:
            x = layer(x)
        return x


class FixedHiddenMLP(nn.Module):
    """One layer used twice, a constant weight in between, and a loop at the end.

    The output is halved until its absolute values sum to at most 1, then summed. `init`
    draws the constant from U(0, 1) into the collection `constants`, which no optimiser
    sees.

    Attributes:
      width: of the input, of the layer and of the constant.
    """

    width: int = 20

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, ""]:
        """Return the sum of the halved outputs of all rows.

        Raises:
          ValueError: if the rows of `x` are not of the module's width.
        """
        if x.shape[-1] != self.width:
            raise ValueError(
                f"FixedHiddenMLP expects rows of width {self.width}, got {x.shape[-1]}"
            )
        rand_weight = self.variable(
            "constants",
            "rand_weight",
            lambda: jax.random.uniform(
                self.make_rng("params"), (self.width, self.width), jnp.float32
            ),
        )
        linear = nn.Dense(self.width, name="linear")
        h = nn.relu(linear(x) @ rand_weight.value + 1)
        return halve_until_small(linear(h)).sum()


def halve_until_small(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Halve `y` until the sum of its absolute values is at most 1.

    >>> halve_until_small(jnp.array([3.0, -1.0])).tolist()
    [0.75, -0.25]

    The gradient treats the number of halvings as a constant, which is what PyTorch
    computes through `while y.abs().sum() > 1: y /= 2`.
    """
    n = count_halvings(y)
    half = jnp.asarray(0.5, y.dtype)
    # Two factors, because 0.5**n underflows if the sum of y overflows.
    return y * half ** (n // 2) * half ** (n - n // 2)


def count_halvings(y: Float[Array, "*shape"]) -> Int[Array, ""]:
    """Count the halvings that bring the sum of the absolute values of `y` to 1 or less.

    The count stops at the number that any finite `y` can need: an infinite sum stays
    infinite, and PyTorch's loop never ends. A NaN is not above 1, so the count is 0.
    """
    enough = int(jnp.finfo(y.dtype).maxexp) + y.size.bit_length()

    def too_large(state: tuple[Array, Array]) -> Array:
        y, n = state
        return (jnp.abs(y).sum() > 1) & (n < enough)

    def halve(state: tuple[Array, Array]) -> tuple[Array, Array]:
        y, n = state
        return y / 2, n + 1

    # lax.while_loop has no reverse derivative.
    start = (jax.lax.stop_gradient(y), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(too_large, halve, start)[1]


class NestMLP(nn.Module):
    """Perceptron 64-32-16 whose first two layers are a `nn.Sequential` of their own."""

    def setup(self) -> None:
        """Name the inner block `net` and the last layer `linear`."""
        self.net = nn.Sequential((nn.Dense(64), nn.relu, nn.Dense(32), nn.relu))
        self.linear = nn.Dense(16)

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch 16"]:
        """Return the outputs of the last layer, without an activation."""
        return self.linear(self.net(x))


def chimera() -> nn.Sequential:
    """Return a block of all of these: from rows of any width to a single number."""
    return nn.Sequential((NestMLP(), nn.Dense(20), FixedHiddenMLP()))
