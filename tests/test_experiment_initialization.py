"""The initialisation experiment from the flags to the summary."""

import json

import numpy as np
import pytest

from experiments import initialization
from experiments.common.console import Report
from experiments.common.errors import UsageError
from experiments.initialization import remedies as deep_remedies
from experiments.initialization.networks import HE, LARGE, SMALL, Recipe


def run(folder, **flags):
    config = initialization.Config(out=folder, **flags)
    initialization.run(config, Report("initialization"))
    return json.loads((folder / "summary.json").read_text())


def test_what_diverges_is_reported_beside_what_learns(
    few_images, tmp_path, capsys, monkeypatch
):
    two = (Recipe(LARGE, 1e6), Recipe(HE))
    panels = dict.fromkeys(deep_remedies.COMPARISONS, two)
    monkeypatch.setattr(deep_remedies, "COMPARISONS", panels)
    monkeypatch.setattr(initialization, "WATCHED", {SMALL: (0, "-"), HE: (2, "--")})
    summary = run(tmp_path, epochs=2, depth=3, width=8, seeds=2)

    products = summary["products"]
    assert products["N(0, 1²)"] > 20
    assert products["N(0, 0.25²)"] < -30
    signal = summary["signals"]["ReLU, N(0, 0.01²)"]
    assert signal["size"]["last"] < 0.1 * signal["size"]["first"]
    symmetry = summary["symmetry"]
    assert symmetry["constant 0.01"]["largest_difference"] < 1e-6
    assert symmetry["N(0, 0.01²)"]["largest_difference"] > 0.01

    lost, learned = summary["remedies"]
    assert lost == {"recipe": "ReLU, N(0, 0.3²), rate 1000000.0", "diverged": True}
    assert not learned["diverged"]
    assert len(learned["test_accuracy"]) == 2
    assert np.isfinite(learned["train_loss"])
    names = ("sigmoid", "products", "signal", "symmetry", "remedies")
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "diverged: ReLU, N(0, 0.3²), rate 1000000.0: the training loss" in out


@pytest.mark.parametrize("flag", ["epochs", "depth", "width", "seeds"])
def test_a_size_of_zero_is_refused_before_anything_is_written(flag, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=f"--{flag} must be at least 1, got 0"):
        run(out, **{flag: 0})
    assert not out.exists()


@pytest.mark.long
def test_thirty_layers_learn_with_a_remedy_and_stay_at_chance_without(tmp_path):
    remedies = {
        result["recipe"]: result.get("test_accuracy", "diverged")
        for result in run(tmp_path)["remedies"]
    }
    for recipe in (
        "sigmoid, Xavier",
        "ReLU, N(0, 0.01²)",
        "ReLU, N(0, 0.01²), layer norm",
    ):
        assert max(remedies[recipe]) < 0.15, recipe
    for recipe in (
        "ReLU, He",
        "tanh, Xavier",
        "ReLU, N(0, 0.01²), residual",
        "sigmoid, Xavier, layer norm",
        "ReLU, He, rate 0.2, clipped by norm",
    ):
        assert np.mean(remedies[recipe]) >= 0.75, recipe
    assert remedies["ReLU, He, rate 0.2"] == "diverged"
    assert remedies["ReLU, N(0, 0.3²), rate 0.2"] == "diverged"
    assert max(remedies["ReLU, N(0, 0.3²), rate 0.2, clipped by norm"]) < 0.75
