"""The three recipes of the house prices, from the flags to the summary."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ch4jax import house_prices
from ch4jax.data import hub
from ch4jax.errors import DataError, NetworkError
from ch4jax.house_prices.models import Architecture
from ch4jax.training import folds, sharding
from experiments import house_prices as experiment
from experiments.common.errors import Failed, UsageError
from experiments.common.run_folder import RunFolder
from experiments.house_prices import Config, best, book, members, outcome, search

SMALL = Config(folds=2, seeds=1, epochs=2)


@pytest.fixture(scope="module")
def few():
    """The first 90 sales with prices, and 30 without."""
    tables = house_prices.read("shipped")
    return tables._replace(train=tables.train[:90], test=tables.test[:30])


@pytest.fixture(autouse=True)
def small(monkeypatch, few):
    """Few sales; two models of one architecture, which compiles quickly, and once."""
    monkeypatch.setattr(house_prices, "read", lambda source: few)
    tiny = Architecture(hidden=(4,), waves=2, frequencies=1)
    monkeypatch.setattr(members, "ARCHITECTURES", {"linear": tiny, "mlp": tiny})


def run(config):
    experiment.run(config)
    return json.loads((config.out / "summary.json").read_text())


def run_to_the_end(folder, *figures, **flags):
    """Check what every recipe leaves, and return the summary."""
    summary = run(replace(SMALL, out=folder, **flags))
    assert summary["out_of_fold_log_rmse"] > 0
    assert summary["out_of_fold_log_rmse_standard_error"] > 0
    assert len(summary["worst"]) == 8
    record = json.loads((folder / "record.json").read_text())
    assert f"Log RMSE {summary['out_of_fold_log_rmse']:.4f} ± " in record["headline"]
    shown = [figure["file"] for figure in record["figures"]]
    assert shown == [*figures, "out_of_fold.png"]
    return summary


def test_the_books_recipe_ends_in_a_submission(tmp_path, capsys):
    flags = {"epochs": 60, "seeds": 3, "learning_rate": 500.0, "recipe": "seed"}
    summary = run_to_the_end(tmp_path, "curves.png", **flags)
    assert summary["recipe"] == "book"
    for over, count in (("seeds", 3), ("folds", 2)):
        means = summary[f"valid_log_rmse_over_{over}"]
        assert len(means) == count
        assert np.mean(means) == pytest.approx(summary["valid_log_rmse"])
    by_fold = np.square(summary["valid_log_rmse_over_folds"])  # of 45 rows each
    root_mean = np.sqrt(by_fold.mean())
    # The mean over the seeds is as good as each: the problem has one minimum.
    assert summary["out_of_fold_log_rmse"] == pytest.approx(root_mean, rel=1e-3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 61))
    assert np.shape(json.loads(lines[0])["valid_log_rmse"]) == (2, 3)
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission["Id"]) == list(range(1461, 1491))
    assert (submission["SalePrice"] > 0).all()
    out = capsys.readouterr().out
    for fact in ("2-fold validation: avg train", "208500", "worst predicted houses"):
        assert fact in out


def test_plus_minus_is_a_standard_error_and_low_validation_is_explained(
    tmp_path, capsys
):
    train = np.full((3, 2, 1), 0.2)
    valid = train + np.array([-0.1, 0.0, -0.1])[:, None, None] + [[0.0], [0.01]]
    validation = members.CrossValidation(0, 3, 2, 1, sharding.make_mesh())
    folder = RunFolder("house_prices", tmp_path)
    seconds = {"train": 1.0, "compile": 1.0}
    book.show_folds({"train": train, "valid": valid}, seconds, validation, folder)
    out = " ".join(capsys.readouterr().out.split())
    assert "0.1050 ± 0.0050" in out  # deviation 0.0071, over the root of 2
    assert "houses that are hard to predict: fold 1, fold 3." in out


def test_a_price_that_cannot_be_submitted_fails_the_run(few, tmp_path):
    folder = RunFolder.create("house_prices", replace(SMALL, out=tmp_path))
    with pytest.raises(Failed, match=r"submission\.csv was not written: the price of"):
        outcome.submit(few, np.full(30, np.nan), folder)
    assert not (tmp_path / "submission.csv").exists()


def test_the_search_shows_each_setting_with_its_standard_error(tmp_path, monkeypatch):
    grids = {
        "linear": ((0.1, 0.3), (0.1,), (0.1,)),
        "mlp": ((0.01,), (0.1,), (0.1, 0.2)),
    }
    monkeypatch.setattr(search, "GRIDS", grids)
    summary = run_to_the_end(tmp_path, "search.png", recipe="search")
    assert len(summary["results"]) == 4
    for name in grids:
        of_model = [r for r in summary["results"] if r["model"] == name]
        assert summary["chosen"][name] == min(of_model, key=lambda r: r["log_rmse"])
        assert all(r["standard_error"] > 0 for r in of_model)
    least = min(summary["results"], key=lambda r: r["log_rmse"])
    assert summary["chosen"][summary["winner"]] == least


def test_the_best_recipe_ends_in_a_submission(tmp_path, few):
    summary = run_to_the_end(tmp_path, recipe="best")
    np.testing.assert_allclose(np.sum(summary["weights"], axis=1), 1)
    assert np.shape(summary["weights"]) == (3, 2)  # two halves and all; two models
    squares = np.square(summary["log_rmse_by_fold"]["blend"])
    assert summary["out_of_fold_log_rmse"] == pytest.approx(np.sqrt(squares.mean()))
    submission = pd.read_csv(tmp_path / "submission.csv")
    low, high = few.train["SalePrice"].min(), few.train["SalePrice"].max()
    assert submission["SalePrice"].between(low / 2, high * 2).all()


def test_nothing_that_an_ensemble_has_fitted_depends_on_rows_it_leaves_out(few):
    halves = folds.k_fold(90, 2, seed=0)
    owned = np.concatenate([halves, np.ones((1, 90), bool)])
    validation = members.CrossValidation(0, 2, 1, 2, sharding.make_mesh())
    changed = few.train.copy()
    left_out = ~owned[0]
    changed.loc[left_out, "SalePrice"] *= 10
    changed.loc[left_out, "LotArea"] = 10**8
    changed.loc[left_out, "Neighborhood"] = "Atlantis"
    changed.loc[left_out, "MasVnrType"] = None
    before, after = (
        best.train_ensembles(owned, data, validation)
        for data in (few, few._replace(train=changed))
    )
    same = np.append(owned[0], np.ones(30, bool))  # and the test rows
    for name, ours in before.predictions.items():
        theirs = after.predictions[name]
        np.testing.assert_array_equal(ours[0][:, same], theirs[0][:, same], strict=True)
        assert (ours[2][:, same] != theirs[2][:, same]).all()
    np.testing.assert_array_equal(before.weights[0], after.weights[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"folds": 1}, "--folds must be at least 2, got 1"),
        ({"folds": 91}, "--folds must be at most the 90 rows with prices, got 91"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"seeds": 3, "devices": 2}, "--seeds must be a multiple of the 2 --devices"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"batch_size": 91}, "--batch-size must be at most the 90 rows"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive and finite"),
        ({"weight_decay": -1.0}, "--weight-decay must be positive and finite"),
        ({"recipe": "best", "learning_rate": 1.0}, "--learning-rate is for --recipe b"),
        ({"recipe": "search", "weight_decay": 1.0}, "--weight-decay is for --recipe b"),
        ({"recipe": "best", "batch_size": 32}, "--batch-size is for --recipe book"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(flags, message, tmp_path):
    with pytest.raises(UsageError, match=rf"{message}.*\Z"):  # one line
        run(replace(SMALL, out=tmp_path / "run", **flags))
    assert not (tmp_path / "run").exists()


def test_too_few_rows_for_inner_folds_are_refused(tmp_path, few, monkeypatch):
    tiny = few._replace(train=few.train[:8])
    monkeypatch.setattr(house_prices, "read", lambda source: tiny)
    with pytest.raises(DataError, match="8 rows with prices in 2 folds leave 4 to"):
        run(replace(SMALL, out=tmp_path / "run", recipe="best"))
    assert not (tmp_path / "run").exists()


def test_from_the_hub_every_file_is_downloaded_first(monkeypatch):
    def offline():
        raise NetworkError("put the file there by hand")

    monkeypatch.setattr(hub, "download_all", offline)
    with pytest.raises(NetworkError, match="by hand"):
        experiment.run(Config(data="hub"))
