"""House prices: the tables, their encoding, the book's model, the submission."""

import lzma
import os
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from support import one_line, zipped

from ch4jax import house_prices
from ch4jax.data import hub
from ch4jax.errors import DataError
from ch4jax.house_prices import tables as house_tables
from ch4jax.training import folds

TRAIN, TEST = (
    lzma.decompress((house_tables.SHIPPED_FOLDER / f"{name}.csv.xz").read_bytes())
    for name in ("train", "test")
)


@pytest.fixture(scope="module")
def tables():
    return house_prices.read("shipped")


def test_the_tables_are_the_books(tables):
    assert tables.train.shape == (1460, 81)
    assert tables.test.shape == (1459, 80)
    corner = tables.train.iloc[0:4, [0, 1, 2, 3, -3, -2, -1]]
    assert corner.to_csv() == (
        ",Id,MSSubClass,MSZoning,LotFrontage,SaleType,SaleCondition,SalePrice\n"
        "0,1,60,RL,65.0,WD,Normal,208500\n"
        "1,2,20,RL,80.0,WD,Normal,181500\n"
        "2,3,60,RL,68.0,WD,Normal,223500\n"
        "3,4,70,RL,60.0,WD,Abnorml,140000\n"
    )


def test_the_encoding_is_the_books(tables):
    encoded = house_prices.encode(tables.train, tables.test)
    assert encoded.train.shape == (1460, 331)
    assert encoded.test.shape == (1459, 331)
    features = pd.concat([tables.train.iloc[:, 1:-1], tables.test.iloc[:, 1:]])
    numbers = features.select_dtypes("number").columns
    features[numbers] = features[numbers].apply(lambda x: (x - x.mean()) / x.std())
    features[numbers] = features[numbers].fillna(0)
    expected = pd.get_dummies(features, dummy_na=True)
    assert list(expected.columns) == encoded.names
    both = np.concatenate([encoded.train, encoded.test])
    np.testing.assert_allclose(both, expected.to_numpy(float), rtol=1e-12, atol=1e-12)


def test_fitted_on_train_the_encoding_knows_nothing_of_the_other_table(tables):
    train, test = tables.train[:200], tables.train[200:300]
    before = house_prices.encode(train, test, fit_on="train")
    changed = test.assign(LotArea=10**9, Street="Gold", MasVnrType=None)
    after = house_prices.encode(train, changed, fit_on="train")
    assert before.names == after.names
    np.testing.assert_array_equal(before.train, after.train)
    streets = [i for i, name in enumerate(after.names) if name.startswith("Street_")]
    assert not after.test[:, streets].any()  # gold is nothing that it has seen
    assert after.test[:, after.names.index("MasVnrType_nan")].all()
    leaky = house_prices.encode(train, changed, fit_on="all")
    assert "Street_Gold" in leaky.names


def test_a_column_that_never_varies_is_zero_and_not_nan(tables):
    train, test = tables.train[:50].assign(LotArea=0.1), tables.test[:50]
    encoded = house_prices.encode(train, test, fit_on="train")
    column = encoded.names.index("LotArea")
    for table in encoded.train, encoded.test:
        assert np.isfinite(table).all()
        assert not table[:, column].any()


def test_an_infinite_number_is_seen_and_not_taken_for_a_missing_one(tables):
    area = tables.train["LotArea"].astype(float).where(tables.train["Id"] > 3, np.inf)
    with np.errstate(invalid="ignore"):
        encoded = house_prices.encode(tables.train.assign(LotArea=area), tables.test)
    assert np.isnan(encoded.test[:, encoded.names.index("LotArea")]).all()


def test_fit_on_is_all_or_train(tables):
    with pytest.raises(ValueError, match="fit_on must be 'all' or 'train', got 'test'"):
        house_prices.encode(tables.train, tables.test, fit_on="test")


# -- malformed tables -------------------------------------------------------------

LINES = TRAIN.splitlines()[:6]
SMALL = b"\n".join(LINES) + b"\n"
SMALL_TEST = b"\n".join(TEST.splitlines()[:6]) + b"\n"


def cells():
    return [line.split(b",") for line in LINES]


def joined(rows):
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def with_cell(column, cell):
    """Put `cell` into the third row."""
    rows = cells()
    rows[3][rows[0].index(column.encode())] = cell
    return joined(rows)


def columns(order):
    return joined([[row[i] for i in order(range(81))] for row in cells()])


RIGHT = {
    "as it is": SMALL,
    "byte-order mark": b"\xef\xbb\xbf" + SMALL,
    "CRLF": SMALL.replace(b"\n", b"\r\n"),
    "CR and no last line end": SMALL.rstrip().replace(b"\n", b"\r"),
    "blank lines": SMALL.replace(b"\n", b"\n\n"),
    "UTF-16": SMALL.decode().encode("utf-16"),
    "blanks around cells": SMALL.replace(b",", b" , "),
    "whole numbers as floats": SMALL.replace(b"\n3,60,", b"\n3.0,60.0,"),
    "quoted": joined([[b'"%s"' % cell for cell in row] for row in cells()]),
    "reordered": columns(reversed),
    "blank for NA": SMALL.replace(b",NA,", b",,").replace(b",NA,", b",,"),
}

WRONG_FILES = {
    "empty": (b"", "lacks the column 'Id' and 80 more"),
    "semicolons": (SMALL.replace(b",", b";"), "has no commas, but starts with 'Id;MS"),
    "a header alone": (LINES[0], "has a header and no rows"),
    "a column missing": (columns(lambda r: r[:-2]), "lacks the column .SaleCondition"),
    "a column twice": (columns(lambda r: [*r, 4]), "has twice the column 'LotArea'"),
    "a column too many": (joined([[*row, b"7"] for row in cells()]), "column '7'"),
    "half of UTF-16": (RIGHT["UTF-16"][:-1], "is not UTF-8: .* in line"),
    "a row too short": (SMALL + b"9,20,RL\n", "has 3 cells in row 6, expected 81"),
    "all rows too long": (SMALL.replace(b"500\n", b"500,\n"), "has 82 cells in row 1"),
}
WRONG_CELLS = {
    "latin-1": ("Street", b"Caf\xe9", r"is not UTF-8: .* in line 4"),
    "a stray quote": ("Street", b'"Pa"ve', "is not a table in CSV: ','"),
    "a line of 10 MB": ("LotArea", b"x" * 10**7, "is not a table in CSV: field"),
    "1e308": ("LotArea", b"1e308", "has '1e308' .* in row 3, .* below 1e.12"),
    "NUL": ("LotArea", b"84\x0050", r"has .84\\x0050. for LotArea in row 3"),
    "text": ("LotArea", b"big", "has 'big' for LotArea in row 3, expected a finite"),
    "an infinite number": ("LotArea", b"inf", "has 'inf' for LotArea in row 3"),
    "a NaN": ("LotArea", b"nan", "has 'nan' for LotArea in row 3"),
    "an unknown quality": ("ExterQual", b"Great", "'Great' .* one of Po, .*Ex, or NA"),
    "0 for no quality": ("PoolQC", b"0", "has '0' for PoolQC in row 3, exp.* Po"),
    "0 among words": ("MasVnrType", b"0.0", "'0.0' for MasVnrType in row"),
    "a price of zero": ("SalePrice", b"0", "expected a positive price"),
    "no price": ("SalePrice", b"", "has '' for SalePrice in row 3, exp"),
    "an Id twice": ("Id", b"2", "has the Id 2 twice"),
    "half an Id": ("Id", b"2.5", "has '2.5' for Id in row 3, expected a w"),
    "an Id missing": ("Id", b"", "has '' for Id in row 3, expected a who"),
    "an endless Id": ("Id", b"9" * 30, "for Id in row 3, expected a fin"),
}
WRONG = WRONG_FILES | {
    case: (with_cell(column, cell), message)
    for case, (column, cell, message) in WRONG_CELLS.items()
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_can_be_read_is_read_alike(case):
    expected = house_tables.read_table(SMALL, "train.csv", with_prices=True)
    table = house_tables.read_table(RIGHT[case], "train.csv", with_prices=True)
    pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_table_is_said_in_one_line(case):
    content, message = WRONG[case]
    with one_line(DataError, rf"^train\.csv .*{message}") as error:
        house_tables.read_table(content, "train.csv", with_prices=True)
    assert len(str(error.value)) < 200


def test_the_training_table_is_no_test_table():
    with pytest.raises(DataError, match="has the unknown column 'SalePrice'"):
        house_tables.read_table(SMALL, "test.csv", with_prices=False)


# -- where the tables are -----------------------------------------------------------


def folder(path, **files):
    path.mkdir()
    for name, content in files.items():
        (path / f"{name}.csv").write_bytes(content)


def archive(path, **files):
    path.write_bytes(zipped({f"{name}.csv": files[name] for name in files}))


@pytest.mark.parametrize("make", [folder, archive])
def test_kaggles_folder_and_zip_are_read(make, tmp_path):
    path = tmp_path / "kaggle"
    make(path, train=SMALL, test=SMALL_TEST)
    tables = house_prices.read(str(path))
    assert tables.train.shape == (5, 81)
    assert tables.test.shape == (5, 80)
    assert tables.source == str(path)


def test_on_kaggles_machines_the_input_folder_is_found(tmp_path, monkeypatch):
    path = tmp_path / "kaggle"
    folder(path, train=SMALL, test=SMALL_TEST)
    monkeypatch.setattr(house_tables, "KAGGLE_FOLDERS", (tmp_path / "none", path))
    assert house_prices.read().source == str(path)
    monkeypatch.setattr(house_tables, "KAGGLE_FOLDERS", (tmp_path / "none",))
    assert house_prices.read().source == "shipped"


def test_through_the_hub_the_tables_are_the_same(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("CH4JAX_DATA", str(tmp_path))
    for name, content in (("train", TRAIN), ("test", TEST)):
        url, sha1 = hub.DATA_HUB[f"kaggle_house_{name}"]
        place = tmp_path / f"kaggle_house_{name}-{sha1[:8]}"
        place.mkdir()
        (place / url.rsplit("/", 1)[-1]).write_bytes(content)  # as if fetched
    pd.testing.assert_frame_equal(house_prices.read("hub").train, tables.train)


def fifo(path):
    path.mkdir()
    os.mkfifo(path / "train.csv")


def damaged(path, method):
    content = bytearray(zipped({"train.csv": TRAIN, "test.csv": TEST}, method))
    content[5000:5100] = bytes(100)
    path.write_bytes(content)


NO_ZIP = "expected a folder or zip with"
PLACES = {
    "a FIFO": (fifo, r"train\.csv cannot be read: .*not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), NO_ZIP),
    "a bomb": (lambda p: archive(p, train=bytes(2**26 + 1)), "67,108,865 bytes, at mo"),
    "nowhere": (lambda path: None, r"train\.csv is not there; expected a folder"),
    "no test table": (lambda p: folder(p, train=SMALL), r"test\.csv is not there"),
    "swapped": (lambda p: folder(p, train=SMALL_TEST, test=SMALL), "train.* lacks"),
    "a zip without tables": (lambda p: archive(p, other=SMALL), "is not there"),
    "a zip of a folder": (lambda p: archive(p, **{"a/train": SMALL}), "is not there"),
    **{
        f"a damaged zip, method {m}": (partial(damaged, method=m), r"train\.csv canno")
        for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
    },
    "an empty file": (lambda path: path.write_bytes(b""), NO_ZIP),
    "the head of a zip": (lambda path: path.write_bytes(b"PK\x03\x04"), NO_ZIP),
    "a table": (lambda path: path.write_bytes(SMALL), NO_ZIP),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_without_the_tables_is_named(case, tmp_path):
    make, message = PLACES[case]
    path = tmp_path / "kaggle"
    make(path)
    with one_line(DataError, f"^{path.resolve()}.*{message}"):
        house_prices.read(str(path))


# -- the book's model ----------------------------------------------------------------


def test_log_rmse_takes_predictions_below_one_for_one():
    prices = jnp.array([1.0, np.e, 100.0])
    predictions = jnp.array([-5.0, 0.5, 100.0])
    expected = np.sqrt(1 / 3)  # log errors 0, -1, 0
    np.testing.assert_allclose(house_prices.log_rmse(predictions, prices), expected)


SETTINGS = ((0.1, 0.0), (0.3, 0.5))
IN_TRAINING = folds.k_fold(40, 3)  # of 26, 27 and 27 rows


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    prices = np.exp(x @ np.ones(3) + rng.normal(size=40) * 0.1) + 2
    return jnp.array(x), jnp.array(prices)


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), (3, 2))


def train(x, prices, in_training, settings, keys):
    setting = house_prices.Setting(*jnp.array(settings, float).T)
    steps = folds.steps_per_epoch(IN_TRAINING, 8)
    given = {"epochs": 5, "batch_size": 8, "steps": steps, "keys": keys}
    return house_prices.train_linear(
        setting, x, prices, jnp.array(in_training), **given
    )


def test_each_setting_fold_and_seed_is_the_run_on_its_own(x64):
    together, history = train(*problem(), IN_TRAINING, SETTINGS, keys())
    for s, f in ((0, 0), (1, 2)):
        own = IN_TRAINING[[f]], SETTINGS[s : s + 1], keys()[f : f + 1, 1:]
        alone, curve = train(*problem(), *own)
        for name, ours in (together | history).items():
            theirs = (alone | curve)[name][0, 0, 0]
            np.testing.assert_allclose(ours[s, f, 1], theirs, rtol=1e-12)
    weights = together["w"].reshape(-1, 3)
    assert len(np.unique(weights, axis=0)) == 2 * 3 * 2  # each keeps its own


def test_training_compiles_once_for_all_seeds(x64):
    train(*problem(), IN_TRAINING, SETTINGS, keys())
    before = house_prices.train_linear._cache_size()
    for seed in range(1, 4):
        train(*problem(), IN_TRAINING, SETTINGS, keys(seed))
    assert house_prices.train_linear._cache_size() == before


# -- the submission --------------------------------------------------------------------


def test_a_submission_holds_an_id_and_a_price_in_cents_in_each_row(tmp_path, tables):
    ids = tables.test["Id"].to_numpy()
    prices = np.linspace(1e4, 1e6, len(ids))
    house_prices.write_submission(tmp_path / "submission.csv", ids, prices)
    lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert lines[:2] == ["Id,SalePrice", "1461,10000.0"]
    assert len(lines) == 1460
    read = [float(line.split(",")[1]) for line in lines[1:]]
    np.testing.assert_array_equal(read, prices.round(2))


@pytest.mark.parametrize(
    ("ids", "prices", "message"),
    [
        ([1, 2], [1.0], r"shape \(2,\) and prices of shape \(1,\)"),
        ([1, 1], [1.0, 2.0], "an Id occurs twice"),
        ([1, 2], [1.0, np.nan], "the price of Id 2 must be positive, got nan"),
        ([1, 2], [np.inf, 0.0], "the price of Id 1 must be positive, got inf"),
        ([1, 2], [1.0, 0.0], "the price of Id 2 must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_submitted_is_not_written(ids, prices, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        house_prices.write_submission(tmp_path / "s.csv", ids, np.array(prices))
    assert not list(tmp_path.iterdir())
