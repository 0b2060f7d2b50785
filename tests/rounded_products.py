"""Facts of a device that rounds what it multiplies; `test_sharding` runs them.

A TPU, by its own default, rounds both sides of a product to bfloat16 and adds in
float32; with the precision `highest` it does not. Here the CPU is made to do so.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir
from support import relative_difference

from ch4jax import house_prices, training
from ch4jax.data import fashion_mnist
from ch4jax.dropout import init_mlp
from ch4jax.training import folds
from experiments.benchmark.rows import read_houses
from experiments.common import linear_problem
from experiments.common.networks import metrics_fn, scratch_network


def to_bfloat16(x):
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def product(context, x, y, *, dimension_numbers, precision, **_):
    """Lower a product for a CPU as a TPU computes it."""
    if precision != (lax.Precision.HIGHEST,) * 2:
        rounded = mlir.lower_fun(lambda *xs: [*map(to_bfloat16, xs)], True)
        inner = context.replace(avals_out=list(context.avals_in))
        x, y = (value for value in rounded(inner, x, y))
    (contract_x, contract_y), (batch_x, batch_y) = dimension_numbers
    numbers = stablehlo.DotDimensionNumbers.get(
        *map(list, (batch_x, batch_y, contract_x, contract_y))
    )
    element = ir.RankedTensorType(x.type).element_type
    result = ir.RankedTensorType.get(context.avals_out[0].shape, element)
    return stablehlo.DotGeneralOp(result, x, y, numbers).results


mlir.register_lowering(lax.dot_general_p, product, platform="cpu")


def both(work):
    """Return what the work comes to with float32 products, and with rounded ones."""
    results = []
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            results.append(jax.jit(lambda: work())())
    return results


def test_a_product_is_that_of_rounded_factors_unless_it_is_to_be_highest():
    x, y = jax.random.normal(jax.random.key(0), (2, 64, 64))
    low = np.asarray(jnp.stack([x, y]).astype(jnp.bfloat16), np.float64)
    exact, rounded = both(lambda: x @ y)
    assert relative_difference(rounded, low[0] @ low[1]) <= 1e-6
    assert relative_difference(exact, np.float64(x) @ np.float64(y)) <= 1e-6


def test_weight_decay_learns_its_rows_by_heart_only_with_float32_products():
    config = linear_problem.Hyperparameters(epochs=400)

    def losses(lambd):
        problem = linear_problem.draw_problem(config, key=jax.random.key(0))
        last, _ = linear_problem.train(problem, "scratch", lambd, config)
        return linear_problem.measure(last, problem)

    exact, rounded = both(lambda: losses(0.0))
    assert exact["train_loss"] < 1e-9 < 1e-6 < rounded["train_loss"] < 1e-3
    # What the chapter is about is the same: far off on new rows, and mended by decay.
    assert relative_difference(rounded["test_loss"], exact["test_loss"]) < 1e-2
    exact, rounded = both(lambda: losses(3.0))
    assert relative_difference(rounded["test_loss"], exact["test_loss"]) < 1e-2


@pytest.fixture(scope="module")
def images():
    data = fashion_mnist.load("mini")
    return data.train, data.test


def test_gradients_of_the_dropout_mlp_move_by_percents(images):
    rows = tuple(array[:256] for array in images[0])
    network = metrics_fn(scratch_network((256, 256), (0.2, 0.5), None))

    def gradients():
        def loss(params):
            return network(params, *rows, key=jax.random.key(1))["loss"].mean()

        return jax.grad(loss)(init_mlp(key=jax.random.key(0)))

    exact, rounded = both(gradients)
    of_leaves = jax.tree.map(relative_difference, rounded, exact)
    moved = jax.tree.leaves(of_leaves)
    assert 1e-4 < min(moved) < 0.01 < max(moved) < 0.05


def test_accuracies_of_the_dropout_mlp_hold(images):
    network = scratch_network((256, 256), (0.2, 0.5), None)
    metrics = metrics_fn(network)
    given = {"metrics_fn": metrics, "optimizer": optax.sgd(0.5), "batch_size": 256}

    def accuracy():
        params, key = network.init(jax.random.key(0)), jax.random.key(1)
        last, _ = training.fit(params, images[0], epochs=1, key=key, **given)
        return training.evaluate(last, images[1], metrics_fn=metrics)["accuracy"]

    exact, rounded = both(accuracy)
    two_standard_errors = 2 * (2 * 0.8 * 0.2 / len(images[1][0])) ** 0.5
    assert abs(exact - rounded) < two_standard_errors


def test_scores_of_house_prices_hold():
    x, prices, in_training, _ = read_houses()

    def scores():
        _, history = house_prices.train_linear(
            house_prices.Setting(jnp.full(1, 5.0), jnp.zeros(1)),
            *map(jnp.asarray, (x, prices, in_training)),
            epochs=20,
            batch_size=64,
            steps=folds.steps_per_epoch(in_training, 64),
            keys=jax.random.split(jax.random.key(0), (5, 1)),
        )
        return jnp.sqrt(history["valid_squared_log_error"][..., -1]).mean()

    exact, rounded = both(scores)
    assert abs(exact - rounded) < 1e-3
