"""The three recipes of the house prices, from the flags to the summary."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ch4jax import house_prices
from ch4jax.errors import DataError
from ch4jax.house_prices.models import Architecture
from ch4jax.training import folds
from experiments import house_prices as experiment
from experiments.common import cli
from experiments.common.console import Report
from experiments.common.errors import Failed, UsageError
from experiments.house_prices import Config
from experiments.house_prices import best as house_best
from experiments.house_prices import members as house_members
from experiments.house_prices import outcome as house_outcome
from experiments.house_prices import search as house_search

SMALL = Config(folds=2, seeds=1, epochs=2)


@pytest.fixture(scope="module")
def few():
    """The first 90 sales with prices, and 30 without."""
    tables = house_prices.read("shipped")
    return tables._replace(train=tables.train[:90], test=tables.test[:30])


@pytest.fixture(autouse=True)
def small(monkeypatch, few):
    """Few sales; two models of one architecture, which compiles quickly, and once."""
    monkeypatch.setattr(house_prices, "read", lambda source, **_: few)
    tiny = Architecture(hidden=(4,), waves=2, frequencies=1)
    architectures = {"linear": tiny, "mlp": tiny}
    monkeypatch.setattr(house_members, "ARCHITECTURES", architectures)


def run(config):
    experiment.run(config, Report("house_prices"))
    return json.loads((config.out / "summary.json").read_text())


def check_outcome(folder, summary):
    """Check what every recipe leaves."""
    assert summary["out_of_fold_log_rmse"] > 0
    assert summary["out_of_fold_log_rmse_standard_error"] > 0
    assert len(summary["worst"]) == 8
    assert (folder / "out_of_fold.png").read_bytes().startswith(b"\x89PNG")


def test_the_books_recipe_ends_in_a_submission(tmp_path, capsys):
    config = replace(SMALL, out=tmp_path, epochs=60, seeds=3, learning_rate=500.0)
    summary = run(config)
    check_outcome(tmp_path, summary)
    assert summary["recipe"] == "seed"
    assert len(summary["valid_log_rmse_over_seeds"]) == 3
    assert len(summary["valid_log_rmse_over_folds"]) == 2
    for mean in ("valid_log_rmse_over_seeds", "valid_log_rmse_over_folds"):
        assert np.mean(summary[mean]) == pytest.approx(summary["valid_log_rmse"])
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
    assert (tmp_path / "curves.png").exists()
    out = capsys.readouterr().out
    for fact in ("2-fold validation: avg train", "208500", "worst predicted houses"):
        assert fact in out


def test_a_price_that_cannot_be_submitted_fails_the_run(few):
    report = Report("house_prices")
    with pytest.raises(Failed, match=r"submission\.csv was not written: the price of"):
        house_outcome.submit(few, np.full(30, np.nan), report)
    assert not (report.folder / "submission.csv").exists()


def test_the_search_shows_each_setting_with_its_standard_error(tmp_path, monkeypatch):
    grids = {
        "linear": ((0.1, 0.3), (0.1,), (0.1,)),
        "mlp": ((0.01,), (0.1,), (0.1, 0.2)),
    }
    monkeypatch.setattr(house_search, "GRIDS", grids)
    summary = run(replace(SMALL, out=tmp_path, recipe="search"))
    check_outcome(tmp_path, summary)
    assert len(summary["results"]) == 4
    for name in grids:
        of_model = [r for r in summary["results"] if r["model"] == name]
        assert summary["chosen"][name] == min(of_model, key=lambda r: r["log_rmse"])
        assert all(r["standard_error"] > 0 for r in of_model)
    least = min(summary["results"], key=lambda r: r["log_rmse"])
    assert summary["chosen"][summary["winner"]] == least
    assert (tmp_path / "search.png").exists()


def test_the_best_recipe_ends_in_a_submission(tmp_path, few):
    summary = run(replace(SMALL, out=tmp_path, recipe="best"))
    check_outcome(tmp_path, summary)
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

    def ensembles(data):
        report = Report("house_prices")
        return house_best.train_ensembles(SMALL, data, owned, report)

    changed = few.train.copy()
    left_out = ~owned[0]
    changed.loc[left_out, "SalePrice"] *= 10
    changed.loc[left_out, "LotArea"] = 10**8
    changed.loc[left_out, "Neighborhood"] = "Atlantis"
    changed.loc[left_out, "MasVnrType"] = None
    before, after = ensembles(few), ensembles(few._replace(train=changed))
    same = np.append(owned[0], np.ones(30, bool))  # and the test rows
    for name, said in before.by_model.items():
        np.testing.assert_array_equal(
            said[0][:, same], after.by_model[name][0][:, same], strict=True
        )
        assert (said[2][:, same] != after.by_model[name][2][:, same]).all()
    np.testing.assert_array_equal(before.weights[0], after.weights[0])
    np.testing.assert_array_equal(before.blend[0][:, same], after.blend[0][:, same])


def test_a_row_is_encoded_alike_by_a_fold_whether_or_not_others_are_left_out(few):
    masks = folds.k_fold(90, 3, seed=0)
    x = house_members.encode(few, masks)
    changed = few.train.copy()
    changed.loc[~masks[1], ["LotArea", "SalePrice"]] = 10**7
    again = house_members.encode(few._replace(train=changed), masks)
    np.testing.assert_array_equal(x[1][:90][masks[1]], again[1][:90][masks[1]])
    np.testing.assert_array_equal(x[1][90:], again[1][90:])
    assert (x[0] != again[0]).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"folds": 1}, "--folds must be at least 2, got 1"),
        ({"folds": 0}, "--folds must be at least 2, got 0"),
        ({"folds": 91}, "--folds must be at most the 90 rows with prices, got 91"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        (
            {"seeds": 3, "devices": 2},
            "--seeds must be a multiple of the 2 --devices, got 3",
        ),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"batch_size": 91}, "--batch-size must be at most the 90 rows"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive and finite"),
        ({"weight_decay": -1.0}, "--weight-decay must be positive and finite"),
        (
            {"recipe": "best", "learning_rate": 1.0},
            "--learning-rate is for --recipe se",
        ),
        (
            {"recipe": "search", "weight_decay": 1.0},
            "--weight-decay is for --recipe se",
        ),
        (
            {"recipe": "best", "batch_size": 32},
            "--batch-size is for --recipe seed, got",
        ),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(flags, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        run(replace(SMALL, out=tmp_path / "run", **flags))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_too_few_rows_for_inner_folds_are_refused(tmp_path, few, monkeypatch):
    tiny = few._replace(train=few.train[:8])
    monkeypatch.setattr(house_prices, "read", lambda source, **_: tiny)
    with pytest.raises(DataError, match="8 rows with prices in 2 folds leave 4 to"):
        run(replace(SMALL, out=tmp_path / "run", recipe="best"))
    assert not (tmp_path / "run").exists()


def test_a_download_is_shown_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    bar = experiment.DownloadBar(console)
    for total in (2000, 500):  # one file after the other, as pooch calls it
        bar.total = total
        bar.update(total // 2)
        bar.update(total // 2)
        bar.reset()
        bar.update(total)
        bar.close()
    assert "downloading" in console.file.getvalue()
    assert "100%" in console.file.getvalue()


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_bad_data_exit_with_65_and_one_line(place, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # read in earnest
    (tmp_path / "empty").mkdir()
    path, out = str(tmp_path / place), str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["house_prices", "--data", path, "--out", out])
    with pytest.raises(SystemExit) as stop:
        cli.main(Config, experiment.run)
    assert stop.value.code == 65
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
