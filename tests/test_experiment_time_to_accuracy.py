"""Time to accuracy: both libraries train the same recipe, with the same schedule."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments import time_to_accuracy
from experiments.common.errors import UsageError
from experiments.common.one_cycle import Recipe

RECIPE = Recipe((32,), (0.1,), 0.005, 30, 4)


def test_the_learning_rate_peaks_after_a_quarter_and_ends_at_zero_in_both():
    steps = range(RECIPE.epochs * 10)
    ours, theirs = (
        [float(RECIPE.schedule(300, smaller)(step)) for step in (*steps, 40)]
        for smaller in (jnp.minimum, min)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.argmax(theirs) == 10
    assert (theirs[0], theirs[10], theirs[40]) == (0.1, 1.0, 0.0)


def test_one_seed_has_no_interval():
    with pytest.raises(UsageError, match="--seeds must be at least 2, got 1"):
        time_to_accuracy.Config(seeds=1)


def test_both_learn_and_every_seed_counts(few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_accuracy, "RECIPES", {0.5: RECIPE})
    threads = torch.get_num_threads()
    config = time_to_accuracy.Config(data="mini", rounds=2, seeds=4, out=tmp_path)
    time_to_accuracy.run(config)
    torch.set_num_threads(threads)
    ours, *theirs = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert ours["name"] == "50%, JAX"
    assert theirs[0]["name"] == "50%, PyTorch, threads: 1"
    assert ours["seeds"] == 4
    assert theirs[0]["seeds"] >= 3  # one that warms up, and at least one a round
    for runs in (ours, *theirs):
        mean, low, high = runs["accuracy"]
        assert 0.4 < mean < 1
        assert low < mean < high
