"""Facts about initialisers, the sigmoid's gradient and products of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ch4jax import backprop, weight_decay
from ch4jax import initialization as init
from ch4jax.layers import MyLinear

SHAPES = [(1, 900), (900, 1), (784, 256), (17, 63)]
# name -> variance from (inputs, outputs), and the kurtosis of the distribution.
CLOSED_FORMS = {
    "xavier_uniform": (lambda i, o: 2 / (i + o), 1.8),
    "xavier_normal": (lambda i, o: 2 / (i + o), 3.0),
    "he_normal": (lambda i, o: 2 / i, 3.0),
    "torch_kernel": (lambda i, o: 1 / (3 * i), 1.8),
}
INITIALIZERS = {
    "normal": init.normal(0.01),
    "constant": init.constant(1.0),
    "sparse_uniform": init.sparse_uniform,
    "torch_bias": init.torch_bias(3),
} | {name: getattr(init, name) for name in CLOSED_FORMS}


def check_moments(w, variance, kurtosis):
    """Assert mean 0 and `variance` within five standard errors."""
    w = np.asarray(w, np.float64)
    assert abs(w.mean()) <= 5 * np.sqrt(variance / w.size)
    error = variance * np.sqrt((kurtosis - 1) / w.size)
    assert abs((w**2).mean() - variance) <= 5 * error


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_variances_are_those_of_the_closed_form(name, shape):
    variance, kurtosis = CLOSED_FORMS[name]
    w = getattr(init, name)(jax.random.key(sum(shape)), shape)
    assert w.shape == shape
    check_moments(w, variance(*shape), kurtosis)


STARTS = {  # of weights from a normal distribution, and its variance
    "MyLinear": (lambda key: MyLinear(300, 300).init(key, jnp.ones((1, 300))), 1.0),
    "linear": (lambda key: weight_decay.init_params(1000, key=key)["kernel"], 1.0),
    "in Flax": (lambda key: weight_decay.model.init(key, jnp.ones((1, 1000))), 1.0),
    "w1": (lambda key: backprop.init_params(300, 200, 100, key=key).w1, 1 / 300),
    "w2": (lambda key: backprop.init_params(300, 200, 100, key=key).w2, 1 / 200),
}


@pytest.mark.parametrize("name", STARTS)
def test_weights_start_normal_with_the_variance_of_the_chapter(name):
    start, variance = STARTS[name]
    for leaf in jax.tree.leaves(start(jax.random.key(0))):
        check_moments(leaf, variance, 3.0)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initialisers_draw_the_dtype_asked_for_or_the_widest(name, x64):
    initializer, key = INITIALIZERS[name], jax.random.key(0)
    assert initializer(key, (3, 4), jnp.bfloat16).dtype == jnp.bfloat16
    assert initializer(jax.random.clone(key), (3, 4)).dtype == np.float64


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0), (2, 3, 4)], ids=str)
def test_a_shape_that_is_no_kernel_is_refused(name, shape):
    with pytest.raises(ValueError, match=r"\(inputs, outputs\), each at least 1, got"):
        getattr(init, name)(jax.random.key(0), shape)


def test_the_gradient_of_the_sigmoid_is_that_of_jax_grad_and_at_most_a_quarter(x64):
    x = jnp.linspace(-30, 30, 601)
    ours = init.sigmoid_gradient(x)
    reference = jax.vmap(jax.grad(jax.nn.sigmoid))(x)
    np.testing.assert_allclose(ours, reference, rtol=1e-12, atol=1e-16)
    assert float(ours.max()) == float(ours[300]) == 0.25  # at zero


def test_norms_of_products_are_those_of_the_products(x64):
    norms = np.exp(init.product_log_norms(6, 4, 0.7, key=jax.random.key(0)))
    factors = init.normal(0.7)(jax.random.key(0), (6, 4, 4))
    product = np.eye(4)
    for factor, norm in zip(factors, norms, strict=True):
        product = product @ np.asarray(factor)
        np.testing.assert_allclose(norm, np.linalg.norm(product), rtol=1e-12)


def test_a_hundred_matrices_leave_float32_and_their_log_norms_do_not():
    grown, shrunk = (
        init.product_log_norms(100, 16, std, key=jax.random.key(0))
        for std in (9.0, 0.01)
    )
    assert float(grown[-1]) > np.log(np.finfo(np.float32).max)
    assert float(shrunk[-1]) < np.log(np.finfo(np.float32).tiny)
    assert bool(jnp.isfinite(grown).all() & jnp.isfinite(shrunk).all())
    # Scaling every entry by c scales the k-th product by c**k.
    steps = np.arange(1, 101) * np.log(9 / 0.01)
    np.testing.assert_allclose(grown - shrunk, steps, rtol=1e-4)
