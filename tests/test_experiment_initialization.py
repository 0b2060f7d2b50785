"""The initialisation experiment from the flags to the summary."""

import numpy as np
import pytest
from support import result_of

from experiments import initialization
from experiments.initialization import remedies
from experiments.initialization.networks import HE, LARGE, SMALL


def test_what_diverges_is_reported_beside_what_learns(
    few_images, tmp_path, capsys, monkeypatch
):
    two = (LARGE._replace(learning_rate=1e6), HE)
    panels = dict.fromkeys(remedies.COMPARISONS, two)
    monkeypatch.setattr(remedies, "COMPARISONS", panels)
    monkeypatch.setattr(remedies, "VARIANTS", two)
    monkeypatch.setattr(initialization, "WATCHED", {SMALL: (0, "-"), HE: (2, "--")})
    config = initialization.Config(epochs=2, depth=3, width=8, seeds=2, out=tmp_path)
    summary = result_of(initialization, config)

    assert summary["products"]["N(0, 1²)"] > 20
    assert summary["products"]["N(0, 0.25²)"] < -30
    signal = summary["signals"]["ReLU, N(0, 0.01²)"]
    assert signal["size"]["last"] < 0.1 * signal["size"]["first"]
    symmetry = summary["symmetry"]
    assert symmetry["constant 0.01"]["largest_difference"] < 1e-6
    assert symmetry["N(0, 0.01²)"]["largest_difference"] > 0.01

    diverged, learned = summary["remedies"]
    label = "ReLU, N(0, 0.3²), rate 1000000.0"
    assert diverged == {"recipe": label, "diverged": True}
    assert not learned["diverged"]
    assert len(learned["test_accuracy"]) == 2
    assert np.isfinite(learned["train_loss"])
    assert f"diverged: {label}: the training loss" in capsys.readouterr().out


@pytest.mark.long
def test_thirty_layers_learn_with_a_remedy_and_stay_at_chance_without(tmp_path):
    config = initialization.Config(out=tmp_path)
    results = result_of(initialization, config)["remedies"]
    scores = {result["recipe"]: result.get("test_accuracy") for result in results}
    small, large = "ReLU, N(0, 0.01²)", "ReLU, N(0, 0.3²), rate 0.2"
    for label in ("sigmoid, Xavier", small, f"{small}, layer norm"):
        assert max(scores[label]) < 0.15, label
    helped = ("ReLU, He", "tanh, Xavier", "sigmoid, Xavier, layer norm")
    for label in (*helped, f"{small}, residual", "ReLU, He, rate 0.2, clipped by norm"):
        assert np.mean(scores[label]) >= 0.75, label
    assert scores["ReLU, He, rate 0.2"] is scores[large] is None  # diverged
    assert max(scores[f"{large}, clipped by norm"]) < 0.75
