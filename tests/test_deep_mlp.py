"""The deep perceptron, and its activations and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ch4jax import deep_mlp
from ch4jax.deep_mlp import Architecture
from ch4jax.initialization import he_normal, normal, xavier_uniform

ARCHITECTURES = {
    "plain": Architecture(jax.nn.relu),
    "residual": Architecture(jnp.tanh, residual=True),
    "layer norm": Architecture(jax.nn.sigmoid, layer_norm=True),
    "both": Architecture(jax.nn.relu, residual=True, layer_norm=True),
}


def network(seed, kernel_init, width=64, depth=30):
    key = jax.random.key(seed)
    return deep_mlp.init_params(20, width, depth, 10, kernel_init, key=key)


def batch():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 4, 5)))
    return x, jnp.asarray(rng.integers(0, 10, 32))


measure = jax.jit(deep_mlp.signal, static_argnames="architecture")


def signals(kernel_init, architecture, networks=4):
    """Return the signal in several networks of thirty layers, 64 units each."""
    each = [
        measure(network(seed, kernel_init), *batch(), architecture)
        for seed in range(networks)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def loop(params, x, architecture):
    """Do what `apply` does, layer after layer, with Flax's normalisation."""
    norm = nn.LayerNorm(epsilon=1e-5, use_scale=False, use_bias=False)
    h, activations = x.reshape(x.shape[0], -1), []
    for layer in [params.first, *map(deep_mlp.Dense, *params.hidden)]:
        a = architecture.activation(h @ layer.kernel + layer.bias[None, :])
        a = norm.apply({}, a) if architecture.layer_norm else a
        h = h + a if architecture.residual and activations else a
        activations.append(h)
    return h @ params.output.kernel, jnp.stack(activations)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 4])
def test_the_scan_is_the_loop_over_layers(name, depth, x64):
    params, x = network(0, normal(0.5), 8, depth), batch()[0]
    ours, expected = jax.jit(
        lambda *args: [f(*args, ARCHITECTURES[name]) for f in (deep_mlp.apply, loop)]
    )(params, x)
    for found, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-10, atol=1e-13)


def test_thirty_layers_are_no_longer_a_program_than_three():
    def lines(depth):
        params = network(0, he_normal, depth=depth)
        program = measure.lower(params, *batch(), ARCHITECTURES["plain"]).as_text()
        return len(program.splitlines())

    assert lines(3) == lines(30)


@pytest.mark.parametrize(
    ("kernel_init", "std"), [(he_normal, np.sqrt(2 / 64)), (normal(0.01), 0.01)]
)
def test_a_relu_layer_scales_the_second_moment_by_half_the_width_times_the_variance(
    kernel_init, std, x64
):
    size = np.asarray(signals(kernel_init, ARCHITECTURES["plain"], networks=12).size)
    ratios = (size[:, 1:] / size[:, :-1]) ** 2
    error = ratios.std() / np.sqrt(ratios.size)
    assert abs(ratios.mean() - 64 * std**2 / 2) <= 5 * error


def test_the_gradient_vanishes_in_the_lower_layers_of_a_deep_sigmoid_network():
    signal = signals(xavier_uniform, Architecture(jax.nn.sigmoid))
    assert (signal.gradient[:, 0] < 1e-12 * signal.gradient[:, -1]).all()
    # Activations look healthy, yet all inputs look alike.
    assert (signal.size > 0.3).all()
    assert (signal.spread[:, -1] < 1e-6).all()
