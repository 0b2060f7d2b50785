"""Strict switches for every test, and fixtures that several modules share."""

import os
import tempfile
from importlib.metadata import version

# Tests compile hundreds of little programs and run each once or twice: optimising
# them, which is not what is tested, would take much of their time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false"  # later versions know no such flag
        if version("jax").startswith(("0.8.", "0.9.", "0.10."))
        else "",
    ]
)

import jax
import pytest

from ch4jax.data import fashion_mnist

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Many tests compile the same little programs; within a session, once is enough.
COMPILED = tempfile.TemporaryDirectory(prefix="ch4jax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name  # for commands that tests run
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def settings():
    """Let the test change settings of JAX."""
    before = dict(jax.config.values)
    yield
    for name, value in before.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


@pytest.fixture
def x64():
    """Let the test compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def few_images(monkeypatch):
    """Let 300 training and 50 test images stand for whatever set is asked for."""
    whole = fashion_mnist.load("mini")
    few = whole._replace(
        train_images=whole.train_images[:300],
        train_labels=whole.train_labels[:300],
        test_images=whole.test_images[:50],
        test_labels=whole.test_labels[:50],
    )
    monkeypatch.setattr(fashion_mnist, "load", lambda source: few)
