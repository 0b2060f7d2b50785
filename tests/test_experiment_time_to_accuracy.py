"""Time to accuracy: both libraries train the same recipe, with the same schedule."""

import jax.numpy as jnp
import numpy as np
import torch
from support import result_of

from ch4jax.data import fashion_mnist
from experiments import time_to_accuracy
from experiments.common import one_cycle

RECIPE = one_cycle.Recipe((64,), 30, 4, 0.004)


def test_the_learning_rate_peaks_after_a_quarter_and_ends_at_zero_in_both():
    steps = range(RECIPE.epochs * 10 + 1)
    ours, theirs = (
        [float(RECIPE.schedule(10 * RECIPE.batch_size, smaller)(i)) for i in steps]
        for smaller in (jnp.minimum, min)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.argmax(theirs) == len(steps) // 4
    ends = [theirs[0], max(theirs), theirs[-1]]
    np.testing.assert_allclose(ends, [0.0004, 0.004, 0.0])


def test_both_sets_are_standardised_by_the_training_images():
    data = fashion_mnist.load("mini")
    same = {"test_images": data.train_images, "test_labels": data.train_labels}
    train, test = one_cycle.standardise(data._replace(**same))
    np.testing.assert_allclose(train.images.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(train.images.std(), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(test.images, train.images)
    other = one_cycle.standardise(data)[0]
    np.testing.assert_array_equal(other.images, train.images)


def test_both_learn_and_every_seed_counts(few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(one_cycle, "RECIPES", {"70%": RECIPE})
    threads = torch.get_num_threads()
    config = time_to_accuracy.Config(data="mini", rounds=2, seeds=3, out=tmp_path)
    ours, *theirs = result_of(time_to_accuracy, config)["runs"]
    torch.set_num_threads(threads)
    assert (ours["name"], ours["seeds"]) == ("70%, JAX", 3)
    assert theirs[0]["name"] == "70%, PyTorch, threads: 1"
    assert theirs[0]["seeds"] >= 3  # one that warms up, and at least one a round
    for runs in (ours, *theirs):
        mean, low, high = runs["accuracy"]
        assert 0.4 < mean < 1
        assert low < mean < high
