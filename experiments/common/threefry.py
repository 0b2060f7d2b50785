"""JAX's random bits on a CPU: the same to the last bit, in a third of the time or less.

For a CPU, JAX compiles the rounds of Threefry-2x32 (Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011) to a loop, and in each round all numbers go
through memory. Unrolled, they stay in registers.
"""

from itertools import cycle

from jax import lax
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir
from jaxtyping import Array, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def rounds(
    key0: UInt32[Array, "..."],
    key1: UInt32[Array, "..."],
    count0: UInt32[Array, "..."],
    count1: UInt32[Array, "..."],
) -> list[UInt32[Array, "..."]]:
    """Encrypt a counter of two words with a key of two words, in twenty rounds.

    The shapes must broadcast.
    """
    keys = (key0, key1, key0 ^ key1 ^ PARITY)
    x, y = count0 + keys[0], count1 + keys[1]
    for i, rotations in zip(range(1, 6), cycle(ROTATIONS), strict=False):
        for bits in rotations:
            x = x + y
            y = x ^ (y << bits | lax.shift_right_logical(y, y.dtype.type(32 - bits)))
        x = x + keys[i % 3]
        y = y + keys[(i + 1) % 3] + i
    return [x, y]


def unroll() -> None:
    """Make JAX compile random bits for a CPU from `rounds`, from now on.

    This changes JAX for the whole process, so experiments call it and `ch4jax` does
    not. Programs that are already compiled stay as they are.
    """
    unrolled = mlir.lower_fun(rounds, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, unrolled, platform="cpu")
