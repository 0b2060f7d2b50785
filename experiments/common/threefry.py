"""JAX's random bits on a CPU: the same to the last bit, in a third of the time or less.

For a CPU, JAX makes a loop of the rounds of Threefry-2x32 (Salmon et al., "Parallel
Random Numbers: As Easy as 1, 2, 3", SC 2011), and in each of them all numbers go
through memory. Written out they stay in registers.
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
    """Return the two words that a key makes of a counter, in twenty rounds.

    All shapes are one, or can be broadcast to one.
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
    """From here on, compile random bits for a CPU by `rounds`.

    It is JAX as a whole that is changed, for this process; so no room does it, and
    `experiments` do. What was compiled before stays as it is.
    """
    written_out = mlir.lower_fun(rounds, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, written_out, platform="cpu")
