"""The claims about house prices: their verdicts, and faults that turn them."""

import jax
import numpy as np
import optax
import pytest

from ch4jax import house_prices
from experiments.claims import houses
from experiments.claims.claim import FAILS, HOLDS, Setting
from experiments.common.run_folder import RunFolder


@pytest.fixture
def quick(tmp_path):
    jax.clear_caches()  # what is patched must be traced again
    return Setting(1000, True, RunFolder("claims", tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("adam", [True, False])
def test_adam_suits_more_rates_on_images_unless_it_is_sgd(quick, monkeypatch, adam):
    if not adam:
        monkeypatch.setattr(optax, "scale_by_adam", optax.identity)
    monkeypatch.setattr(houses, "_house_error", lambda *_: 1.0)
    monkeypatch.setattr(houses, "RATES", houses.np.logspace(0, 5, 20))
    on_images = houses.adam_forgives_the_rate(quick).effects["trained on images"]
    assert (on_images.mean() > 0.15) == adam


@pytest.mark.long
@pytest.mark.parametrize("relative", [True, False])
def test_logarithms_help_only_where_the_error_is_relative(quick, monkeypatch, relative):
    def in_dollars(predictions, prices):
        return ((predictions - prices) / 180_000) ** 2

    if not relative:
        monkeypatch.setattr(house_prices, "squared_log_error", in_dollars)
    verdict = houses.relative_errors_want_logarithms(quick).verdict()
    assert (verdict == HOLDS) == relative


@pytest.mark.long
@pytest.mark.parametrize("apart", [True, False])
def test_folds_foretell_the_error_unless_they_train_on_what_they_predict(
    quick, monkeypatch, apart
):
    fit = houses._fit

    def leaking(data, in_training, *rest):
        return fit(data, np.repeat(in_training[:1], len(in_training), axis=0), *rest)

    if not apart:
        monkeypatch.setattr(houses, "_fit", leaking)
    verdict = houses.folds_foretell_the_error(quick).verdict()
    assert verdict == (HOLDS if apart else FAILS)
