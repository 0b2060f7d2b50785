"""The recipes of the house prices, from the flags to the summary."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from support import read, result_of, rows

from ch4jax import house_prices
from ch4jax.data import hub
from ch4jax.errors import DataError, NetworkError
from ch4jax.house_prices import models
from ch4jax.house_prices.models import Architecture
from ch4jax.training import folds, sharding
from experiments import house_prices as experiment
from experiments.common.errors import Failed
from experiments.common.run_folder import RunFolder
from experiments.house_prices import (
    Config,
    book,
    members,
    nested,
    outcome,
    references,
)

FIGURES = ("folds.png", "scores.png", "out_of_fold.png", "importance.png")
run = partial(result_of, experiment)
SMALL = Config(folds=2, seeds=1, epochs=2)


@pytest.fixture(scope="module")
def few():
    """The first 90 sales with prices, and 30 without."""
    tables = house_prices.read("shipped")
    return tables._replace(train=tables.train[:90], test=tables.test[:30])


@pytest.fixture(autouse=True)
def small(monkeypatch, few):
    """Few sales, and a small model, which compiles quickly."""
    monkeypatch.setattr(house_prices, "read", lambda source: few)
    tiny = Architecture(hidden=(4,), waves=2, frequencies=1)
    monkeypatch.setattr(members, "ARCHITECTURE", tiny)


def run_to_the_end(folder, *figures, **flags):
    """Check what every recipe leaves, and return the summary."""
    summary = run(replace(SMALL, out=folder, **flags))
    assert summary["out_of_fold_log_rmse"] > 0
    assert summary["out_of_fold_log_rmse_standard_error"] > 0
    assert len(summary["worst"]) == 8
    record = read(folder, "record")
    assert f"Log RMSE {summary['out_of_fold_log_rmse']:.4f} ± " in record["headline"]
    assert [figure["file"] for figure in record["figures"]] == list(figures)
    submitted = pd.read_csv(folder / "submission.csv")["SalePrice"].to_numpy()
    intervals = pd.read_csv(folder / "intervals.csv")
    np.testing.assert_array_equal(submitted.round(2), submitted)
    assert (intervals["Low"].to_numpy() < submitted).all()
    assert (submitted < intervals["High"].to_numpy()).all()
    return summary


def test_the_books_recipe_ends_in_a_submission(tmp_path, capsys):
    flags = {"epochs": 60, "seeds": 3, "learning_rate": 500.0, "recipe": "seed"}
    summary = run_to_the_end(tmp_path, "curves.png", "out_of_fold.png", **flags)
    assert summary["recipe"] == "book"
    for over, count in (("seeds", 3), ("folds", 2)):
        means = summary[f"valid_log_rmse_over_{over}"]
        assert len(means) == count
        assert np.mean(means) == pytest.approx(summary["valid_log_rmse"])
    by_fold = np.square(summary["valid_log_rmse_over_folds"])  # of 45 rows each
    root_mean = np.sqrt(by_fold.mean())
    # The mean over the seeds is as good as each: the problem has one minimum.
    assert summary["out_of_fold_log_rmse"] == pytest.approx(root_mean, rel=1e-3)
    epochs = rows(tmp_path)
    assert [row["epoch"] for row in epochs] == list(range(1, 61))
    assert np.shape(epochs[0]["valid_log_rmse"]) == (2, 3)
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission["Id"]) == list(range(1461, 1491))
    assert (submission["SalePrice"] > 0).all()
    out = capsys.readouterr().out
    for fact in (
        *("2-fold validation: avg train", "208500", "worst predicted houses"),
        "kaggle competitions submit -c house-prices-advanced-regression-techniques -f ",
    ):
        assert fact in out


def test_plus_minus_is_a_standard_error_and_low_validation_is_explained(
    tmp_path, capsys
):
    train = np.full((3, 2, 1), 0.2)
    valid = train + np.array([-0.1, 0.0, -0.1])[:, None, None] + [[0.0], [0.01]]
    validation = members.CrossValidation(0, 3, 1, 2, 1, 64, sharding.make_mesh())
    folder = RunFolder("house_prices", tmp_path)
    seconds = {"train": 1.0, "compile": 1.0}
    book.show_folds({"train": train, "valid": valid}, seconds, validation, folder)
    out = " ".join(capsys.readouterr().out.split())
    assert "0.1050 ± 0.0050" in out  # deviation 0.0071, over the root of 2
    assert "houses that are hard to predict: fold 1, fold 3." in out


def test_a_price_that_cannot_be_submitted_fails_the_run(few, tmp_path):
    folder = RunFolder.create("house_prices", replace(SMALL, out=tmp_path))
    with pytest.raises(Failed, match=r"submission\.csv was not written: the price of"):
        outcome.submit(few, np.full(30, np.nan), np.ones(90), np.ones((1, 90)), folder)
    assert not (tmp_path / "submission.csv").exists()


def test_intervals_cover_new_prices_as_often_as_they_say():
    """On held-out folds of heavy-tailed errors, 90% within four deviations."""
    rng = np.random.default_rng(0)
    in_training = folds.k_fold(2000, 5)
    errors = rng.standard_t(3, size=2000)
    covered = outcome.coverage(errors, in_training)
    assert abs(covered - 0.9) <= 4 * np.sqrt(0.9 * 0.1 / 2000)


def test_the_best_recipe_chooses_in_each_fold_and_ends_in_a_submission(
    tmp_path, few, monkeypatch, capsys
):
    # Two settings, of which the second learns nothing.
    monkeypatch.setitem(nested.GRIDS, "best", ((0.05, 1e-6), (0.1,), (0.1,)))
    flags = {"recipe": "best", "repeats": 2, "epochs": 6}
    summary = run_to_the_end(tmp_path, *FIGURES, **flags)
    # Two halves, twice, and all rows.
    assert [chosen["learning rate"] for chosen in summary["chosen"]] == [0.05] * 5
    assert np.shape(summary["scores"]["MLP"]["log_rmse_by_fold"]) == (2, 2)
    assert len(summary["importance"]) == 79
    submission = pd.read_csv(tmp_path / "submission.csv")
    low, high = few.train["SalePrice"].min(), few.train["SalePrice"].max()
    assert submission["SalePrice"].between(low / 2, high * 2).all()
    assert "training 6/6" in capsys.readouterr().out


def test_nothing_that_an_ensemble_has_fitted_depends_on_rows_it_leaves_out(
    few, monkeypatch
):
    train = models.train

    def quietly(*given, on_epoch, **more):  # without progress, each compiles once
        return train(*given, **more)

    monkeypatch.setattr(models, "train", quietly)
    halves = folds.k_fold(90, 2, seed=0)
    owned = np.concatenate([halves, np.ones((1, 90), bool)])
    validation = members.CrossValidation(0, 2, 1, 1, 2, 128, sharding.make_mesh())
    changed = few.train.copy()
    left_out = ~owned[0]
    noise = np.random.default_rng(0).uniform(1e4, 1e6, left_out.sum())
    changed.loc[left_out, "SalePrice"] = noise.astype(int)
    of_labels = few._replace(train=changed.copy())
    changed.loc[left_out, "LotArea"] = 10**8
    changed.loc[left_out, "Neighborhood"] = "Atlantis"
    changed.loc[left_out, "MasVnrType"] = None
    grid = np.array([[0.05, 0.1, 0.1], [0.02, 1.0, 0.2]])
    before, noisy, after = (
        nested.train_ensembles(owned, grid, data, validation)
        for data in (few, of_labels, few._replace(train=changed))
    )
    # Labels change no prediction for their rows; features, none for other rows.
    rows = np.ones(120, bool), np.append(owned[0], np.ones(30, bool))
    for other, same in zip((noisy, after), rows, strict=True):
        ours, theirs = before[1].predictions[0], other[1].predictions[0]
        np.testing.assert_array_equal(ours[0][:, same], theirs[0][:, same], strict=True)
        assert (ours[2][:, same] != theirs[2][:, same]).all()
        np.testing.assert_array_equal(before[0][0], other[0][0])


def test_the_weight_of_a_blend_comes_from_other_folds():
    outer = folds.k_fold(40, 2)
    prices = np.zeros(40)
    first = np.where(outer[0], 1.0, 3.0)
    pair = np.stack([first, -first])[:, None]  # half of each is right
    np.testing.assert_allclose(nested.blend_outside(pair, prices, outer), 0.0)
    prices[~outer[0]] = 3.0  # there the first alone is right
    blended = nested.blend_outside(pair, prices, outer)[0]
    np.testing.assert_allclose(blended[~outer[0]], 0.0)  # what the others say
    np.testing.assert_allclose(blended[outer[0]], 1.0)


@pytest.mark.long
def test_references_are_fitted_inside_each_fold(few):
    pytest.importorskip("sklearn")
    in_training = folds.k_fold(90, 2, seed=0)
    changed = few.train.copy()
    changed.loc[~in_training[0], "SalePrice"] *= 10
    ours, theirs = (
        references.fit(data, in_training) for data in (few, few._replace(train=changed))
    )
    assert list(ours) == ["ridge", "lasso", "boosting"]
    for name, predicted in ours.items():
        np.testing.assert_array_equal(predicted[0], theirs[name][0])
        assert (predicted[1] != theirs[name][1]).all()


def test_too_few_rows_for_inner_folds_are_refused(tmp_path, few, monkeypatch):
    tiny = few._replace(train=few.train[:4])
    monkeypatch.setattr(house_prices, "read", lambda source: tiny)
    with pytest.raises(DataError, match="4 rows with prices in 2 folds leave 2 to"):
        run(replace(SMALL, out=tmp_path / "run", recipe="best"))
    assert not (tmp_path / "run").exists()


def test_from_the_hub_every_file_is_downloaded_first(monkeypatch):
    def offline():
        raise NetworkError("put the file there by hand")

    monkeypatch.setattr(hub, "download_all", offline)
    with pytest.raises(NetworkError, match="by hand"):
        experiment.run(Config(data="hub"))
