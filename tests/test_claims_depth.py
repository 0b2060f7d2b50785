"""The claims about depth, and that a planted fault turns each verdict."""

import jax.numpy as jnp
import pytest

from ch4jax.initialization import he_normal
from experiments.claims import depth, recall
from experiments.claims.claim import FAILS, HOLDS, Setting
from experiments.common.run_folder import RunFolder


@pytest.fixture
def setting(tmp_path):
    return Setting(0, True, RunFolder("claims", tmp_path))


def test_gradients_vanish_and_explode_unless_every_start_is_hes(setting, monkeypatch):
    assert depth.gradient_with_depth(setting).verdict() == HOLDS
    monkeypatch.setattr(depth, "SMALL", he_normal)
    monkeypatch.setattr(depth, "LARGE", he_normal)
    assert depth.gradient_with_depth(setting).verdict() == FAILS


def test_the_sigmoid_saturates_unless_its_gradient_is_constant(setting, monkeypatch):
    assert depth.sigmoid_saturates(setting).verdict() == HOLDS
    monkeypatch.setattr(depth, "sigmoid_gradient", jnp.ones_like)
    assert depth.sigmoid_saturates(setting).verdict() == FAILS


@pytest.mark.long
def test_lower_layers_do_not_train_unless_they_are_relus_from_he(setting, monkeypatch):
    assert depth.lower_layers_stay(setting).verdict() == HOLDS
    monkeypatch.setattr(depth, "SIGMOID", depth.RELU)
    monkeypatch.setattr(depth, "xavier_normal", he_normal)
    assert depth.lower_layers_stay(setting).verdict() != HOLDS


@pytest.mark.long
def test_sums_help_unless_they_are_products_again(setting, monkeypatch):
    assert "residual or LSTM with open" in recall.sums_for_products(setting).verdict()
    monkeypatch.setattr(depth, "RESIDUAL", depth.RELU)
    monkeypatch.setattr(recall, "OPEN", 0.0)
    assert "holds if" not in recall.sums_for_products(setting).verdict()


@pytest.mark.long
def test_normalising_helps_unless_nothing_is_normalised(setting, monkeypatch):
    assert depth.normalising(setting).verdict() == HOLDS
    monkeypatch.setattr(depth, "NORMED", depth.RELU)
    monkeypatch.setattr(depth, "BOUNDS", dict.fromkeys(depth.BOUNDS, depth.NO_BOUNDS))
    assert depth.normalising(setting).verdict() == FAILS


@pytest.mark.long
def test_relu_needs_hes_start_and_half_of_it_does_not_do(setting, monkeypatch):
    assert depth.start_fits_activation(setting).verdict().startswith("holds if ReLU or")
    monkeypatch.setattr(depth, "he_normal", lambda *args: 0.5 * he_normal(*args))
    assert "ReLU" not in depth.start_fits_activation(setting).verdict()
