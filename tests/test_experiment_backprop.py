"""The backpropagation experiment from the flags to the summary."""

import pytest
from support import result_of

from experiments import backprop


def test_the_run_checks_gradients_and_counts_bytes(tmp_path):
    config = backprop.Config(out=tmp_path, hidden=8, batch_size=16, lambd=0.5)
    summary = result_of(backprop, config)
    quantities = summary["quantities"]
    assert list(quantities) == ["x", "w1", "z", "h", "w2", "o", "s", "L", "J"]
    for name in list(quantities)[1:]:
        assert quantities[name]["difference"] <= 1e-12, name
    norms = {name: entry["norm"] for name, entry in quantities.items()}
    assert norms["J"] == pytest.approx(norms["L"] + norms["s"])
    assert norms["s"] == pytest.approx(0.25 * (norms["w1"] ** 2 + norms["w2"] ** 2))

    assert summary["differences"]["float64"]["error"] < 1e-7
    assert summary["differences"]["float32"]["error"] > 1e-7

    memory = summary["memory"]
    assert memory["by hand"] == 4 * (16 * 8 + 16 * 10)  # h and o in float32
    assert memory["jax.checkpoint"]["intermediates"] == 0
    assert memory["jax.grad"]["intermediates"] >= memory["by hand"]
    again = memory["jax.checkpoint"]["matrix_products"]
    assert again > memory["jax.grad"]["matrix_products"]
