"""The honest encoder: it knows the rows it was fitted on, and no others."""

import numpy as np
import pytest

from ch4jax import house_prices
from ch4jax.house_prices import features as house_features


@pytest.fixture(scope="module")
def train():
    return house_prices.read("shipped").train


@pytest.fixture(scope="module")
def log_prices(train):
    return np.log(train["SalePrice"].to_numpy(float))


def test_every_feature_is_finite_and_bent_into_its_range(train, log_prices):
    tables = house_prices.read("shipped")
    encoder = house_features.fit(house_features.derive(train), log_prices)
    for table in tables.train, tables.test:
        features = house_features.encode(encoder, house_features.derive(table))
        assert features.shape[1] == len(encoder.median) + house_features.NUM_KINDS
        assert np.abs(features).max() < 3
    assert list(encoder.median.index[:31]) == list(house_features.CONTINUOUS)


def test_a_table_with_nothing_in_it_is_encoded_all_the_same(train, log_prices):
    numbers = train.select_dtypes("number").columns.drop(["Id", "MSSubClass"])
    kinds = train.columns.drop(numbers).drop(["Id", "MSSubClass"])
    bare = train.assign(**dict.fromkeys(numbers, np.nan), **dict.fromkeys(kinds))
    derived = house_features.derive(bare.copy())  # in one piece, as `read` makes it
    encoder = house_features.fit(derived, log_prices)
    assert np.isfinite(house_features.encode(encoder, derived)).all()


def test_what_a_row_says_of_itself_does_not_depend_on_other_rows(train):
    whole, part = house_features.derive(train), house_features.derive(train[5:10])
    assert whole[5:10].equals(part)


def test_the_widths_are_those_of_any_other_fold(train, log_prices):
    derived = house_features.derive(train)
    widths = {
        house_features.encode(house_features.fit(part, y), derived[:9]).shape[1]
        for part, y in ((derived, log_prices), (derived[:60], log_prices[:60]))
    }
    assert len(widths) == 1


def effects(train, log_prices, rows, with_prices):
    derived = house_features.derive(train)
    encoder = house_features.fit(derived[rows], log_prices[rows])
    seen = log_prices[rows] if with_prices else None
    features = house_features.encode(encoder, derived[rows], seen)
    scale = encoder.scale["NeighborhoodEffect"]
    bent = features[:, house_features.CONTINUOUS.index("NeighborhoodEffect")]
    raw = bent / np.sqrt(1 - (bent / 3) ** 2)
    return raw * scale + encoder.median["NeighborhoodEffect"]


def test_a_neighbourhoods_effect_is_the_shrunken_mean_without_the_row_itself(
    train, log_prices
):
    rows = np.arange(len(train)) < 300
    derived = house_features.derive(train[:300])
    value = log_prices[:300] - derived["TotalSF"].to_numpy()
    places = train["Neighborhood"][:300].to_numpy()
    expected = []
    for i in range(300):
        rest = np.arange(300) != i
        others = rest & (places == places[i])
        mean = value[rest].mean()
        shrunken = value[others].sum() + house_features.SHRINKAGE * mean
        expected.append(shrunken / (others.sum() + house_features.SHRINKAGE))
    found = effects(train, log_prices, rows, with_prices=True)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_rows_own_price_does_not_move_its_own_effect(train, log_prices):
    rows = np.arange(len(train)) < 300
    changed = log_prices.copy()
    changed[7] += 1
    for with_prices in (True, False):
        before = effects(train, log_prices, rows, with_prices)
        after = effects(train, changed, rows, with_prices)
        assert np.isclose(before[7], after[7], rtol=1e-9) == with_prices
