"""Threefry unrolled: the published vectors, and JAX's numbers to the last bit."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

from experiments.common import threefry

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
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


# The known answers of Random123 1.14, kat_vectors: threefry2x32, 20 rounds.
@pytest.mark.parametrize(
    ("count", "key", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (PI[:2], PI[2:], (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_published_vectors(count, key, expected):
    words = (jnp.uint32(word) for word in (*key, *count))
    assert tuple(map(int, threefry.rounds(*words))) == expected


def test_unrolled_every_number_of_jax_is_the_same_and_no_loop_is_left():
    command = [sys.executable, "-c", SAME_NUMBERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
