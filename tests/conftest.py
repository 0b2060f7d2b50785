"""Strict switches for every test, and what several rooms' tests share."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_platforms", "cpu")


@pytest.fixture
def x64():
    """Let the test compute in float64."""
    with jax.enable_x64(True):
        yield
