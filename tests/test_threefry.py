"""Threefry unrolled gives the numbers of JAX, to the last bit."""

from support import command

SAME_NUMBERS = """
import jax
import jax.numpy as jnp
import numpy as np
from experiments.common import threefry

jax.config.update("jax_numpy_rank_promotion", "raise")

def drawn():
    jax.clear_caches()
    key = jax.random.key(7)
    keys = jax.random.split(key, 3)
    numbers = (
        jax.random.key_data(keys),
        jax.random.key_data(jax.random.fold_in(key, 2)),
        jax.random.bits(key, (1001,)),
        jax.random.bits(key, (9,), "uint8"),
        jax.random.permutation(key, 500),
        jax.random.uniform(key, (4, 5)),
        jax.vmap(lambda k: jax.random.bernoulli(k, 0.3, (5, 7)))(keys),
    )
    draw = jax.jit(lambda k: jax.random.bits(k, (64,)))
    return list(map(np.asarray, numbers)), draw.lower(key).as_text()

before, looped = drawn()
threefry.unroll()
after, unrolled = drawn()
for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a, b)
assert "while" in looped
assert "while" not in unrolled
"""


def test_unrolled_every_number_of_jax_is_the_same_and_no_loop_is_left():
    done = command("-c", SAME_NUMBERS)
    assert done.returncode == 0, done.stderr
