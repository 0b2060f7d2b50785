"""Time to accuracy: both libraries train the same recipe, with the same schedule."""

import jax.numpy as jnp
import numpy as np
import torch
from support import result_of

from experiments import time_to_accuracy
from experiments.common import one_cycle


def test_the_learning_rate_peaks_after_a_quarter_and_ends_at_zero_in_both():
    steps = range(one_cycle.EPOCHS * 10 + 1)
    rows = 10 * one_cycle.BATCH_SIZE
    ours, theirs = (
        [float(one_cycle.schedule(rows, smaller)(step)) for step in steps]
        for smaller in (jnp.minimum, min)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.argmax(theirs) == len(steps) // 4
    ends = [theirs[0], max(theirs), theirs[-1]]
    np.testing.assert_allclose(ends, [0.0004, 0.004, 0.0])


def test_both_learn_and_every_seed_counts(few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(one_cycle, "BATCH_SIZE", 30)
    threads = torch.get_num_threads()
    config = time_to_accuracy.Config(data="mini", rounds=2, seeds=3, out=tmp_path)
    ours, *theirs = result_of(time_to_accuracy, config)["runs"]
    torch.set_num_threads(threads)
    assert (ours["name"], ours["seeds"]) == ("JAX", 3)
    assert theirs[0]["name"] == "PyTorch, threads: 1"
    assert theirs[0]["seeds"] >= 3  # one that warms up, and at least one a round
    for runs in (ours, *theirs):
        mean, low, high = runs["accuracy"]
        assert 0.4 < mean < 1
        assert low < mean < high
