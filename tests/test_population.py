"""A population: each member is the run that it would have been alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import leaves, metrics_fn, two_classes

from ch4jax import training
from ch4jax.dropout import init_mlp
from ch4jax.training import population

OPTIMIZER = optax.sgd(0.1)
SETTING = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 16}


def start(seed, members):
    keys = jax.vmap(jax.random.split)(population.seed_keys(seed, members))
    params = jax.vmap(partial(init_mlp, (4, 16, 2), std=0.5))(key=keys[:, 0])
    return population.init_states(params, OPTIMIZER), keys[:, 1]


def train(states, keys, epochs=3, group=None):
    data = two_classes()
    for _ in range(epochs):
        once = jax.random.clone(keys)
        states, metrics = population.train_epoch(
            states, data, keys=once, group=group, **SETTING
        )
    tested = population.evaluate(states.params, data, metrics_fn=metrics_fn)
    return states, metrics, tested


@pytest.mark.parametrize("group", [None, 2])
def test_each_member_is_the_run_it_would_have_been_alone(x64, group):
    together = train(*start(3, 3), group=group)
    for i in range(3):
        alone = train(*start(3 + i, 1))
        for ours, theirs in leaves(together, alone):
            np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_that_draw_otherwise_when_mapped_over_or_are_too_many_are_refused(impl):
    states, _ = start(0, 2)
    keys = jax.random.split(jax.random.key(0, impl=impl), 2)
    with pytest.raises(ValueError, match=f"need keys of threefry2x32, got {impl}"):
        train(states, keys)
    with jax.default_prng_impl(impl):
        assert len(population.seed_keys(0, 1)) == 1
        with pytest.raises(ValueError, match=f"got {impl}"):
            population.seed_keys(0, 2)
    with pytest.raises(ValueError, match=r"as many rows.*got \(2,\), \(3,\)"):
        train(states, start(0, 3)[1])


@pytest.mark.parametrize("seed", [np.int32(7), np.uint8(7), jnp.int32(7), 2**32 + 7])
def test_the_keys_of_a_seed_are_those_of_its_value_whatever_its_type(seed):
    words = jax.random.key_data(population.seed_keys(seed, 2))
    assert words[:, 1].tolist() == [7, 8]


def test_a_population_is_traced_once_however_many_epochs_run():
    train(*start(0, 2), epochs=1)
    functions = population.train_epoch, population.evaluate
    programs = [function._cache_size() for function in functions]
    states, _, _ = train(*start(2, 2), epochs=4)
    assert [function._cache_size() for function in functions] == programs
    np.testing.assert_array_equal(states.step, [16, 16])


def test_an_epoch_writes_the_new_states_over_the_old():
    states, keys = start(0, 8)
    lowered = population.train_epoch.lower(states, two_classes(), keys=keys, **SETTING)
    of_states = sum(leaf.nbytes for leaf in jax.tree.leaves(states))
    assert lowered.compile().memory_analysis().alias_size_in_bytes == of_states


def test_a_group_fits_the_cache_of_a_cpu_and_fills_any_other_device():
    params = {"kernel": jnp.zeros((3, 512, 256))}
    size = population.group_size(params, "cpu")
    assert 2 * size * 512 * 256 * 4 <= population.CACHED_BYTES
    assert 2 * (size + 1) * 512 * 256 * 4 > population.CACHED_BYTES
    assert population.group_size(params, "gpu") is None


def test_ten_thousand_members_train_within_4_gb_group_by_group():
    data = jnp.zeros((600, 784)), jnp.zeros(600, jnp.int32)
    given = {"metrics_fn": metrics_fn, "optimizer": OPTIMIZER, "batch_size": 100}

    def member(key):  # its parameters are dropped, only its metrics leave the group
        init_key, key = jax.random.split(key)
        params = init_mlp((784, 256, 256, 10), key=init_key)
        last, _ = training.fit(params, data, epochs=1, key=key, **given)
        return jax.tree.map(jnp.linalg.norm, last)

    keys = jax.eval_shape(lambda: population.seed_keys(0, 10_000))
    program = jax.jit(lambda keys: jax.lax.map(member, keys, batch_size=2))
    memory = program.lower(keys).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 4e9
