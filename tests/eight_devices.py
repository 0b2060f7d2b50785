"""Facts of several devices; `test_sharding` runs them where a CPU counts as eight."""

import math
import re
from contextlib import nullcontext
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import (
    largest_difference,
    leaves,
    metrics_fn,
    relative_difference,
    two_classes,
)

from ch4jax import house_prices, storage, training
from ch4jax.dropout import init_mlp
from ch4jax.training import folds, population, sharding

OPTIMIZER = optax.sgd(0.1, momentum=0.9)
SIZES = (4, 16, 2)
PARAMETERS = (4 + 1) * 16 + (16 + 1) * 2
METRICS = 2
FIXED = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 16}


def start(members):
    """Return states and keys; member i is the same however many there are."""
    keys = population.seed_keys(1, members)
    drawn = [init_mlp(SIZES, std=0.5, key=key) for key in keys]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    return population.init_states(params, OPTIMIZER), population.seed_keys(0, members)


def by_rows(mesh):
    return sharding.by_rows(metrics_fn, mesh)


@cache
def train(members, devices):
    """Return what two epochs come to, and the program as text.

    Each device has members of its own, or, of one member, rows of every batch.
    """
    mesh = sharding.make_mesh(devices)
    divided = members % devices == 0
    of_members = sharding.along(mesh, 0) if divided else sharding.whole(mesh)
    states, keys = sharding.place(start(members), of_members)
    data = sharding.place(two_classes(), sharding.whole(mesh))
    fixed = FIXED if divided else FIXED | {"metrics_fn": by_rows(mesh)}
    program = population.train_epoch.lower(states, data, keys=keys, **fixed).compile()
    for _ in range(2):
        states, metrics = program(states, data, keys=keys)
    return sharding.gather((states, metrics), mesh), program.as_text()


@cache
def train_alone():
    """Return the state and metrics of one member after two epochs, nothing placed."""
    states, keys = start(1)
    for _ in range(2):
        states, metrics = population.train_epoch(
            states, two_classes(), keys=jax.random.clone(keys), **FIXED
        )
    return states, metrics


def passed_on(program):
    """Return how many numbers, of any dtype, each collective passes on."""
    pattern = r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
    return [
        (kind, sum(map(size, re.findall(r"\w+\[(.*?)\]", shapes))))
        for shapes, kind in re.findall(pattern, program)
    ]


def size(shape):
    return math.prod(map(int, filter(None, shape.split(","))))


@pytest.mark.parametrize(("members", "devices"), [(3, 2), (1, 4), (1, 8)])
def test_a_member_comes_to_the_same_on_any_number_of_devices(members, devices):
    for ours, theirs in leaves(train(members, devices)[0], train_alone()):
        assert relative_difference(ours[:1], theirs) <= 1e-5


@pytest.mark.parametrize("devices", [1, 2])
def test_the_members_of_a_device_are_to_the_last_bit_those_they_would_be_alone(devices):
    for ours, theirs in leaves(train(devices, devices)[0], train_alone()):
        np.testing.assert_array_equal(ours[:1], theirs)


def test_members_pass_nothing_on():
    assert passed_on(train(2, 2)[1]) == []


def test_a_step_over_rows_sums_gradients_and_metrics_at_once_and_nothing_else():
    assert passed_on(train(1, 8)[1]) == [("all-reduce", PARAMETERS + METRICS)]


def test_an_evaluation_over_rows_is_that_of_one_device():
    mesh = sharding.make_mesh(8)
    params = jax.tree.map(lambda leaf: leaf[0], start(1)[0].params)
    placed = sharding.place((params, two_classes()), sharding.whole(mesh))
    program = training.evaluate.lower(*placed, metrics_fn=by_rows(mesh)).compile()
    assert passed_on(program.as_text()) == [("all-reduce", METRICS)]
    theirs = training.evaluate(params, two_classes(), metrics_fn=metrics_fn)
    for a, b in leaves(program(*placed), theirs):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_what_is_gathered_is_whole_and_on_one_device():
    mesh = sharding.make_mesh(4)
    numbers = np.arange(16.0).reshape(8, 2)
    placed = sharding.place(jnp.asarray(numbers), sharding.along(mesh, 0))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 2)}
    gathered = sharding.gather({"numbers": placed}, mesh)["numbers"]
    assert len(gathered.sharding.device_set) == 1
    np.testing.assert_array_equal(gathered, numbers)


def test_members_of_folds_shared_by_eight_devices_have_the_numbers_of_one():
    x, _ = two_classes()
    in_training = folds.k_fold(50, 2)
    keys = jax.random.split(jax.random.key(0), (2, 8))

    train_all = partial(
        house_prices.train_linear,
        house_prices.Setting(jnp.array([0.1]), jnp.array([0.01])),
        x,
        jnp.exp(x[:, 0]),
        jnp.asarray(in_training),
        epochs=2,
        batch_size=16,
        steps=folds.steps_per_epoch(in_training, 16),
    )
    placed = sharding.place(keys, sharding.along(sharding.make_mesh(8), 1))
    ours = train_all(keys=placed)
    assert len(ours[0]["w"].sharding.device_set) == 8
    assert ours[0]["w"].shape == (1, 2, 8, 4)
    theirs = train_all(keys=jax.random.clone(keys))
    assert largest_difference(leaves(ours, theirs)) <= 1e-5


def spread(devices):
    """Return the states and keys of eight members, on some devices."""
    mesh = sharding.make_mesh(devices)
    return sharding.place(start(8), sharding.along(mesh, 0))


@pytest.mark.parametrize("before", [8, 4, 1])
def test_any_number_of_devices_restores_exactly_what_another_saved(before, tmp_path):
    saved = spread(before)
    checkpoints = storage.Checkpoints(tmp_path)
    checkpoints.save(1, saved)
    for after in (1, 4, 8):
        message = rf"devices: {before} when step .*, {after} now; .* not bit"
        warned = pytest.warns(UserWarning, match=message)
        with nullcontext() if before == after else warned:
            _, restored = checkpoints.restore(spread(after))
        for ours, theirs, placed in leaves(restored, saved, spread(after)):
            assert ours.sharding == placed.sharding
            if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
                ours, theirs = map(jax.random.key_data, (ours, theirs))
            np.testing.assert_array_equal(ours, theirs)
