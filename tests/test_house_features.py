"""The honest encoder: it knows the rows it was fitted on, and no others."""

import numpy as np
import pytest

from ch4jax import house_prices
from ch4jax.errors import DataError
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


def test_a_quality_that_its_scale_lacks_is_named_and_never_absent(train):
    with pytest.raises(DataError, match="'Ex ' for PoolQC in row 3: expected one"):
        house_features.derive(train[:9].assign(PoolQC=[None, "Ex", "Ex ", *[None] * 6]))


def test_whole_numbers_as_floats_are_the_same_kinds(train):
    derived = house_features.derive(train[:9])
    floats = train[:9].astype({"MSSubClass": float, "MoSold": float})
    again = house_features.derive(floats)
    assert derived[["MSSubClass", "Month"]].equals(again[["MSSubClass", "Month"]])


def test_what_a_row_says_of_itself_does_not_depend_on_other_rows(train):
    whole, part = house_features.derive(train), house_features.derive(train[5:10])
    assert whole[5:10].equals(part)


@pytest.mark.parametrize("with_prices", [True, False])
def test_a_neighbourhoods_effect_is_a_shrunken_mean_without_a_price_that_is_given(
    train, log_prices, with_prices
):
    rows, log_prices = np.arange(300), log_prices[:300]
    derived = house_features.derive(train[:300])
    value = log_prices - derived["TotalSF"].to_numpy()
    places = train["Neighborhood"][:300].to_numpy()
    expected = []
    for i in rows:
        rest = (rows != i) | (not with_prices)
        others = rest & (places == places[i])
        shrunken = value[others].sum() + house_features.SHRINKAGE * value[rest].mean()
        expected.append(shrunken / (others.sum() + house_features.SHRINKAGE))

    encoder = house_features.fit(derived, log_prices)
    seen = log_prices if with_prices else None
    features = house_features.encode(encoder, derived, seen)
    name = "NeighborhoodEffect"
    bent = features[:, house_features.CONTINUOUS.index(name)]
    found = bent / np.sqrt(1 - (bent / 3) ** 2) * encoder.scale[name]
    np.testing.assert_allclose(found + encoder.median[name], expected, rtol=1e-9)
