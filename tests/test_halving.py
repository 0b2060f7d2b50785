"""Successive halving: who stops when; a survivor is the run it would be alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import metrics_fn, one_line, two_classes

from ch4jax import training
from ch4jax.dropout import init_mlp
from ch4jax.training import halving, population

RUNGS = (1, 2, 4)


@partial(jax.jit, static_argnames=("rungs", "slots"))
def search(rates, keys, rungs=RUNGS, slots=4):
    """Search learning rates of a small MLP."""
    data = two_classes()
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
    setting = {"metrics_fn": metrics_fn, "optimizer": optimizer, "batch_size": 16}

    def start(candidate):
        params = init_mlp((4, 16, 2), std=0.5, key=candidate["key"])
        state = training.init_state(params, optimizer)
        return optax.tree.set(state, learning_rate=candidate["rate"])

    def advance(candidate, state):
        key = jax.random.fold_in(candidate["key"], 1)
        state, _ = training.train_epoch(state, data, key=key, **setting)
        tested = training.evaluate(state.params, data, metrics_fn=metrics_fn)
        return state, tested["loss"]

    given = {"start": start, "advance": advance, "rungs": rungs, "slots": slots}
    return halving.search({"rate": rates, "key": keys}, **given)


def candidates(number):
    rates = jnp.logspace(-3, 0.5, number)
    order = jax.random.permutation(jax.random.key(1), number)
    return rates[order], population.seed_keys(0, number)


def test_what_remains_of_a_candidate_is_what_it_would_have_been_alone(x64):
    rates, keys = candidates(20)
    losses = np.asarray(search(rates, keys))
    reached = (~np.isnan(losses)).sum(axis=0)
    assert reached[0] == 20
    assert 1 <= reached[2] < reached[1] < 12
    for i, rung in enumerate((~np.isnan(losses)).sum(axis=1) - 1):
        own = rates[i : i + 1], jax.random.clone(keys)[i : i + 1]
        alone = search(*own, rungs=(RUNGS[rung],), slots=1)
        np.testing.assert_allclose(losses[i, rung], alone[0, 0], rtol=1e-12)


def given(losses, slots):
    """Search candidates of given losses; return theirs, and the units of training."""
    units = []

    def advance(number, age):
        jax.debug.callback(lambda unit: units.append(unit), age)
        return age + 1, jnp.asarray(losses)[number, age]

    rest = {"start": jnp.zeros_like, "advance": advance, "rungs": RUNGS, "slots": slots}
    found = halving.search(np.arange(len(losses)), **rest)
    jax.effects_barrier()
    return found, len(units)


def by_hand(losses, slots):
    """Do the same with lists."""
    waiting, seen = list(range(len(losses))), {rung: [] for rung in RUNGS}
    found, units = np.full((len(losses), len(RUNGS)), np.nan), 0
    running = [(waiting.pop(0), 0) for _ in range(slots)]
    while running:
        units += slots  # idle ones too
        running = [(number, age + 1) for number, age in running]
        judged = [pair for pair in running if pair[1] in RUNGS]
        for number, age in judged:
            loss = np.nan_to_num(losses[number, age - 1], nan=np.inf)
            found[number, RUNGS.index(age)] = loss
            seen[age].append(loss)
        for number, age in judged:
            loss, rivals = found[number, RUNGS.index(age)], seen[age]
            ahead = 3 * sum(rival < loss for rival in rivals) < len(rivals)
            if age == RUNGS[-1] or loss == np.inf or not ahead:
                slot = running.index((number, age))
                running[slot : slot + 1] = [(waiting.pop(0), 0)] if waiting else []
    return found, units


@pytest.mark.parametrize("slots", [1, 3, 30])
def test_whoever_falls_behind_stops_and_the_next_takes_the_slot(slots):
    losses = np.random.default_rng(slots).normal(size=(30, 4)).astype(np.float32)
    losses[7:20] = np.nan
    found, units = given(losses, slots)
    expected, expected_units = by_hand(losses, slots)
    np.testing.assert_array_equal(found, expected)
    assert units == expected_units


def test_a_second_search_does_not_compile_again():
    rates, keys = candidates(8)
    programs = search._cache_size()
    first, second = (search(c * rates, jax.random.clone(keys)) for c in (1, 2))
    assert search._cache_size() == programs + 1
    assert (np.isnan(first) != np.isnan(second)).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"rungs": (0, 3)}, "rung must be at least 1, got 0"),
        ({"rungs": ()}, r"rungs must rise, got \(\)"),
        ({"rungs": (1, 3, 3)}, r"rungs must rise, got \(1, 3, 3\)"),
        ({"rates": jnp.ones(3)}, "must have as many rows"),
        ({"keys": jax.random.split(jax.random.key(0, impl="rbg"), 4)}, "threefry2x32"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(changed, message):
    rates, keys = candidates(4)
    with one_line(ValueError, message):
        search(**{"rates": rates, "keys": keys} | changed)
