"""What the claims about dropout find, and that a fault in dropout turns it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims import dropout
from experiments.claims.claim import FAILS, Setting
from experiments.common import memorisation
from experiments.common.run_folder import RunFolder

SHARP = "holds if a layer or a linear layer above it"


@pytest.fixture
def setting(tmp_path):
    return Setting(1000, True, RunFolder("claims", tmp_path))


def test_the_mean_over_masks_is_the_output_of_a_layer_and_not_of_a_network(setting):
    assert dropout.unbiased(setting).verdict() == SHARP


def test_masks_that_are_not_rescaled_are_biased(setting, monkeypatch):
    every_mask = dropout.every_mask
    monkeypatch.setattr(dropout, "every_mask", lambda n, rate: every_mask(n, 0.0))
    assert dropout.unbiased(setting).verdict() == FAILS


@pytest.mark.long
def test_dropout_helps_where_labels_are_wrong_and_not_if_it_drops_nothing(
    setting, monkeypatch
):
    assert "600 images, 30%" in dropout.overfitting(setting).verdict()
    monkeypatch.setattr(dropout, "HALF", dropout.NONE)
    assert dropout.overfitting(setting).verdict() == FAILS


@pytest.mark.long
def test_one_mask_costs_accuracy_and_evaluation_without_masks_does_not(
    setting, monkeypatch
):
    assert dropout.training_only(setting).verdict() == "holds if one mask is drawn"
    mlp = dropout.mlp
    monkeypatch.setattr(dropout, "mlp", lambda *args, key: mlp(*args, key=None))
    assert dropout.training_only(setting).verdict() == FAILS


def test_members_with_one_key_learn_the_same_images_and_wrong_labels():
    data = jnp.zeros((50, 28, 28), jnp.uint8), jnp.arange(50) % 10
    clean, noisy = (
        memorisation.draw(data, 40, noise, key=jax.random.key(0))
        for noise in (0.0, 0.3)
    )
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert 0 < (clean[1] != noisy[1]).sum() < 40
