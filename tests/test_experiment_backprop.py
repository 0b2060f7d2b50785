"""The backpropagation experiment from the flags to the summary."""

import json

import pytest

from experiments import backprop
from experiments.common.console import Report
from experiments.common.errors import UsageError


def run(folder, **flags):
    backprop.run(backprop.Config(out=folder, **flags), Report("backprop"))
    return json.loads((folder / "summary.json").read_text())


def test_the_run_checks_gradients_and_counts_bytes(tmp_path, capsys):
    summary = run(tmp_path, hidden=8, batch_size=16, lambd=0.5)
    quantities = summary["quantities"]
    assert list(quantities) == ["x", "w1", "z", "h", "w2", "o", "s", "L", "J"]
    for name in list(quantities)[1:]:
        assert quantities[name]["difference"] <= 1e-12, name
    assert quantities["J"]["norm"] == pytest.approx(
        quantities["L"]["norm"] + quantities["s"]["norm"]
    )
    norms = (quantities["w1"]["norm"], quantities["w2"]["norm"])
    penalty = 0.25 * (norms[0] ** 2 + norms[1] ** 2)
    assert quantities["s"]["norm"] == pytest.approx(penalty)

    assert summary["differences"]["float64"]["error"] < 1e-7
    assert summary["differences"]["float32"]["error"] > 1e-7

    memory = summary["memory"]
    assert memory["by hand"] == 4 * (16 * 8 + 16 * 10)  # h and o in float32
    assert memory["jax.checkpoint"]["intermediates"] == 0
    assert memory["jax.grad"]["intermediates"] >= memory["by hand"]
    again = memory["jax.checkpoint"]["matrix_products"]
    assert again > memory["jax.grad"]["matrix_products"]
    for figure in ("graph.png", "differences.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    assert "by hand, only h and o are kept: 1,152 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"hidden": 0}, "--hidden must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"batch_size": 6001}, "at most the 6,000 training images, got 6001"),
        ({"lambd": -1.0}, "--lambd must be at least 0 and finite, got -1.0"),
        ({"lambd": float("nan")}, "--lambd must be at least 0 and finite, got nan"),
        ({"lambd": float("inf")}, "--lambd must be at least 0 and finite, got inf"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(flags, message, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=message) as error:
        run(out, **flags)
    assert "\n" not in str(error.value)
    assert not out.exists()
