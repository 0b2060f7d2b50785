"""Initialisers and clipping against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from support import relative_difference

from ch4jax import initialization as init

FAN_IN, FAN_OUT = 50, 4_000


def torch_draws(fill):
    """Return a kernel (inputs, outputs) that PyTorch filled."""
    torch.manual_seed(0)
    weight = torch.empty(FAN_OUT, FAN_IN)
    fill(weight)
    return weight.numpy().T


def torch_linear():
    torch.manual_seed(0)
    return torch.nn.Linear(FAN_IN, FAN_OUT)


def check_same_distribution(ours, theirs, kurtosis):
    """Assert equal means and variances, within five standard errors of each."""
    ours, theirs = (np.asarray(w, np.float64).ravel() for w in (ours, theirs))
    assert ours.shape == theirs.shape
    n, variance = ours.size, theirs.var()
    assert abs(ours.mean() - theirs.mean()) <= 5 * np.sqrt(2 * variance / n)
    error = variance * np.sqrt(2 * (kurtosis - 1) / n)
    assert abs(ours.var() - variance) <= 5 * error
    # Kolmogorov and Smirnov: beyond 2.5 * sqrt(2 / n) once in 130,000 times.
    both = np.sort(np.concatenate([ours, theirs]))
    shares = [
        np.searchsorted(np.sort(w), both, side="right") / n for w in (ours, theirs)
    ]
    assert np.abs(shares[0] - shares[1]).max() <= 2.5 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    ("name", "fill", "kurtosis"),
    [
        ("xavier_uniform", torch.nn.init.xavier_uniform_, 1.8),
        ("xavier_normal", torch.nn.init.xavier_normal_, 3.0),
        (
            "he_normal",
            lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
            3.0,
        ),
    ],
)
def test_kernels_come_from_pytorchs_distribution(name, fill, kurtosis):
    ours = getattr(init, name)(jax.random.key(0), (FAN_IN, FAN_OUT))
    check_same_distribution(ours, torch_draws(fill), kurtosis)


def test_normal_is_pytorchs():
    ours = init.normal(0.01)(jax.random.key(0), (FAN_IN, FAN_OUT))
    theirs = torch_draws(lambda w: torch.nn.init.normal_(w, std=0.01))
    check_same_distribution(ours, theirs, 3.0)


def test_the_default_of_pytorch_is_met_for_the_weight_and_the_bias():
    kernel_key, bias_key = jax.random.split(jax.random.key(0))
    layer = torch_linear()
    bound = 1 / np.sqrt(FAN_IN)
    for ours, theirs in (
        (
            init.torch_kernel(kernel_key, (FAN_IN, FAN_OUT)),
            layer.weight.detach().numpy().T,
        ),
        (
            init.torch_bias(FAN_IN)(bias_key, (FAN_OUT,)),
            layer.bias.detach().numpy(),
        ),
    ):
        check_same_distribution(ours, theirs, 1.8)
        for w in (np.asarray(ours), theirs):
            # The largest of n is short of the bound by bound / n, in expectation.
            assert np.abs(w).max() <= bound * 1.000001
            assert np.abs(w).max() >= bound * (1 - 10 / w.size)


def test_the_books_own_initialiser_is_pytorchs():
    def fill(w):
        torch.nn.init.uniform_(w, -10, 10)
        w.mul_(w.abs() >= 5)

    ours = init.sparse_uniform(jax.random.key(0), (FAN_IN, FAN_OUT))
    theirs = torch_draws(fill)
    # E[w⁴] / E[w²]², where w is uniform over 5 <= |w| <= 10 half of the time.
    second, fourth = (10**k - 5**k for k in (3, 5))
    kurtosis = (fourth / 50) / (second / 30) ** 2
    check_same_distribution(ours, theirs, kurtosis)


def gradients():
    keys = jax.random.split(jax.random.key(0))
    return [jax.random.normal(key, (30, 20)) * 3 for key in keys]


def torch_gradients(grads):
    parameters = [torch.zeros(grad.shape, dtype=torch.float64) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = torch.tensor(np.asarray(grad))
    return parameters


def test_clipping_by_norm_is_pytorchs_but_for_its_millionth(x64):
    grads = gradients()
    norm = float(optax.tree.norm(grads))
    ours, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    parameters = torch_gradients(grads)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for mine, parameter in zip(ours, parameters, strict=True):
        # PyTorch divides by norm + 1e-6.
        theirs = parameter.grad * (norm + 1e-6) / norm
        assert relative_difference(mine, theirs) <= 1e-12


def test_clipping_by_value_is_pytorchs(x64):
    grads = gradients()
    ours, _ = optax.clip(0.5).update(grads, optax.EmptyState())
    parameters = torch_gradients(grads)
    torch.nn.utils.clip_grad_value_(parameters, 0.5)
    for mine, parameter in zip(ours, parameters, strict=True):
        np.testing.assert_array_equal(mine, parameter.grad)


def test_clipping_by_norm_keeps_the_direction_and_by_value_bends_it(x64):
    grads = gradients()

    def cosine(clip):
        clipped, _ = clip.update(grads, optax.EmptyState())
        a, b = (jnp.concatenate([g.ravel() for g in t]) for t in (grads, clipped))
        return float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))

    assert cosine(optax.clip_by_global_norm(1.0)) == pytest.approx(1, abs=1e-12)
    assert cosine(optax.clip(0.5)) < 0.9
