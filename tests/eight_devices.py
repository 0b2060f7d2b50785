"""Facts of several devices; `test_sharding` runs them where a CPU counts as eight."""

import dataclasses
import math
import re
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import relative_difference

from ch4jax import house_prices as tables
from ch4jax import training
from ch4jax.dropout import mlp
from ch4jax.house_prices.models import Architecture
from ch4jax.training import folds, population, sharding
from experiments import house_prices, weight_decay
from experiments.common import weight_decay_runs
from experiments.house_prices import members as house_members

OPTIMIZER = optax.sgd(0.1, momentum=0.9)
SIZES = ((12, 16), (16, 3))
PARAMETERS = sum((inputs + 1) * outputs for inputs, outputs in SIZES)
METRICS = 2


def metrics_fn(params, x, labels, *, key):
    return training.classification_metrics(mlp(params, x, (0.5,), key=key), labels)


FIXED = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 16}


def problem():
    """Return 50 rows: the last batch is short."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x[:, :3].argmax(axis=1))


def start(members):
    """Return states and keys; member i is the same however many there are."""
    rngs = [np.random.default_rng(1 + i) for i in range(members)]
    params = [
        {
            "kernel": jnp.asarray([rng.normal(0, 0.5, size) for rng in rngs]),
            "bias": jnp.zeros((members, size[1])),
        }
        for size in SIZES
    ]
    keys = jax.vmap(jax.random.key)(jnp.arange(members, dtype=jnp.uint32))
    return population.init_states(params, OPTIMIZER), keys


@cache
def train(members, devices):
    """Return states and metrics after two epochs, and the program as text."""
    placement = sharding.spread(sharding.make_mesh(devices), members)
    states, keys = sharding.place(start(members), placement.members)
    data = sharding.place(problem(), placement.whole)
    program = sharding.train_epoch.lower(
        states, data, keys=keys, placement=placement, **FIXED
    ).compile()
    for _ in range(2):
        states, metrics = program(states, data, keys=keys)
    return (sharding.gather(states, placement), metrics), program.as_text()


@cache
def train_alone(members):
    """Return states and metrics that `population` itself comes to, on one device."""
    states, keys = start(members)
    for _ in range(2):
        states, metrics = population.train_epoch(
            states, problem(), keys=jax.random.clone(keys), **FIXED
        )
    return states, metrics


def passed_on(program):
    """Return how many floats of each kind pass between devices, as the program says."""
    pattern = r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
    floats = Counter()
    for shapes, kind in re.findall(pattern, program):
        for shape in re.findall(r"f32\[(.*?)\]", shapes):
            floats[kind] += math.prod(map(int, shape.split(",")))
    return floats


def leaves(*trees):
    return zip(*map(jax.tree.leaves, trees), strict=True)


@pytest.mark.parametrize(("members", "devices"), [(1, 1), (3, 2), (1, 4), (1, 8)])
def test_a_member_comes_to_the_same_on_any_number_of_devices(members, devices):
    for ours, theirs in leaves(train(members, devices)[0], train_alone(1)):
        assert relative_difference(ours[:1], theirs) <= 1e-5


def test_on_one_device_nothing_changes_to_the_last_bit():
    for ours, theirs in leaves(train(1, 1)[0], train_alone(1)):
        np.testing.assert_array_equal(ours, theirs)


def test_the_members_of_a_device_are_to_the_last_bit_those_they_would_be_alone():
    for ours, theirs in leaves(train(2, 2)[0], train_alone(1)):
        np.testing.assert_array_equal(ours[:1], theirs)


def test_members_pass_nothing_on_but_their_metrics():
    assert passed_on(train(2, 2)[1]) == {"all-gather": 2 * METRICS}


def test_a_step_over_rows_sums_as_many_numbers_as_there_are_parameters():
    assert passed_on(train(1, 8)[1]) == {"all-reduce": PARAMETERS + METRICS}


def test_an_evaluation_over_rows_is_that_of_one_device():
    placement = sharding.spread(sharding.make_mesh(8), 1)
    params = start(1)[0].params
    ours = sharding.evaluate(
        sharding.place(params, placement.members),
        sharding.place(problem(), placement.whole),
        metrics_fn=metrics_fn,
        placement=placement,
    )
    theirs = population.evaluate(params, problem(), metrics_fn=metrics_fn)
    for a, b in leaves(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_what_is_gathered_is_whole_and_on_one_device():
    placement = sharding.spread(sharding.make_mesh(4), 8)
    numbers = np.arange(16.0).reshape(8, 2)
    placed = sharding.place(jnp.asarray(numbers), placement.members)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 2)}
    gathered = sharding.gather({"numbers": placed}, placement)["numbers"]
    assert len(gathered.sharding.device_set) == 1
    np.testing.assert_array_equal(gathered, numbers)


@pytest.mark.parametrize("method", ["scratch", "AdamW"])
def test_a_grid_shared_by_eight_devices_has_the_numbers_of_one(method):
    config = weight_decay.Config(lambdas=16, seeds=2, epochs=3, inputs=8)
    problems = weight_decay_runs.grid_problems(config)
    shared = dataclasses.replace(config, devices=8)
    ours, _ = weight_decay_runs.train_grid(shared, problems, method)
    theirs, _ = weight_decay_runs.train_grid(config, problems, method)
    for name, values in theirs.items():
        assert values.shape == (16, 2)
        np.testing.assert_allclose(ours[name], values, rtol=1e-5)


def test_members_of_folds_shared_by_eight_devices_say_what_those_of_one_say():
    config = house_prices.Config(recipe="search", folds=2, seeds=8, devices=8)
    data = tables.read("shipped")
    data = data._replace(train=data.train[:60], test=data.test[:10])
    model = Architecture(hidden=(4,), waves=2, frequencies=1)
    in_training = folds.k_fold(60, 2)
    x = house_members.encode(data, in_training)

    def said(config):
        keys = house_members.draw_keys(config, 2, key=jax.random.key(0))
        settings = [(0.01, 0.1, 0.2)]
        return house_members.train(
            model, settings, data, x, in_training, keys, epochs=2
        )[0]

    ours, theirs = said(config), said(dataclasses.replace(config, devices=None))
    assert ours.shape == (1, 2, 8, 70)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
