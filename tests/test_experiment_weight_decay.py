"""The weight decay experiment from the flags to the summary."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import read, result_of, rows

from experiments import weight_decay
from experiments.common import linear_problem
from experiments.common.errors import Failed
from experiments.common.run_folder import RunFolder

run = partial(result_of, weight_decay)
SMALL = weight_decay.Config(
    inputs=8, train_rows=6, test_rows=10, epochs=3, batch_size=4, lambdas=3, seeds=2
)


def test_the_run_leaves_runs_grids_and_figures(tmp_path, capsys):
    summary = run(replace(SMALL, out=tmp_path))
    runs = [(entry["method"], entry["lambd"]) for entry in summary["results"]]
    methods = ("scratch", "concise", "mapped")
    assert runs == [(method, lambd) for lambd in (0, 3) for method in methods]
    assert summary["mapped_difference"] <= 1e-5
    concise = summary["results"][1]
    assert concise["test_mse"] == 2 * concise["test_loss"]
    for grid in summary["grids"].values():
        np.testing.assert_allclose(grid["lambdas"], [1e-3, 10**-0.5, 1e2], rtol=1e-6)
        assert len(grid["train_loss"]) == len(grid["norm"]) == 3
        assert set(grid["seconds"]) == {"compile", "run"}
    small, large, *_ = (grid["test_loss"] for grid in summary["grids"].values())
    assert small != large
    names = ["scratch", "scratch, true w 0.1", "L2 in Adam", "AdamW"]
    assert list(summary["grids"]) == names
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3] * 6
    record = read(tmp_path, "record")
    files = [figure["file"] for figure in record["figures"]]
    assert files == ["curves.png", "true_weights.png", "sweep.png", "adam.png"]
    first = summary["grids"]["scratch"]["test_loss"][0]
    headline = f"Median test loss of 2 draws: {first:.3g} at lambda 0.001, "
    assert record["headline"].startswith(headline)
    out = capsys.readouterr().out
    for fact in ("mapped, lambda 3", "norm of w", "0 of 6", "norm at 100"):
        assert fact in out


@pytest.mark.parametrize("method", ["scratch", "L2 in Adam", "AdamW"])
def test_each_cell_of_a_grid_is_the_run_of_that_lambda_and_seed_alone(method, x64):
    problems = linear_problem.grid_problems(5, SMALL.seeds, SMALL)
    lambdas = jnp.asarray(linear_problem.grid_lambdas(SMALL.lambdas))
    measures = linear_problem.grid_program(method, SMALL)(problems, lambdas)
    problem = linear_problem.draw_problem(SMALL, key=jax.random.key(6))
    train = jax.jit(partial(linear_problem.train, method=method, config=SMALL))
    alone, _ = train(problem, lambd=lambdas[2])
    for name, value in linear_problem.measure(alone, problem).items():
        np.testing.assert_allclose(measures[name][2, 1], value, rtol=1e-10)
    assert measures["norm"].shape == (3, 2)
    assert np.unique(measures["norm"]).size == 6


def test_the_books_run_shows_what_the_book_says():
    problem = linear_problem.draw_problem(key=jax.random.key(0))
    for method in ("scratch", "concise"):
        train = jax.jit(partial(linear_problem.train, method=method))
        free, decayed = (
            linear_problem.measure(train(problem, lambd=lambd)[0], problem)
            for lambd in (0.0, 3.0)
        )
        assert free["test_loss"] > 100 * free["train_loss"]
        assert 11 < free["norm"] < 16
        assert decayed["norm"] < 0.6
        assert decayed["test_loss"] < free["test_loss"] / 10


def test_data_weights_and_noise_are_drawn_apart():
    config = replace(SMALL, train_rows=10)  # as many as the test rows
    problem = linear_problem.draw_problem(config, key=jax.random.key(0))
    (x, y), (test_x, _) = problem.train_data, problem.test_data
    noise = y - x @ jnp.full((8, 1), 0.01) - 0.05
    drawn = [*x.T, *test_x.T, 100 * noise[:, 0]]
    assert np.unique(np.round(np.asarray(drawn), 4), axis=0).shape == (17, 10)
    other = linear_problem.draw_problem(config, key=jax.random.key(1))
    assert (other.train_data[0] != x).all()
    assert (other.test_data[0] != test_x).all()


def test_lambda_zero_is_run_once(tmp_path):
    folder = RunFolder("weight_decay", tmp_path)
    results = weight_decay.run_book(replace(SMALL, lambd=0.0), folder)["results"]
    assert [entry["lambd"] for entry in results] == [0.0] * 3


def test_ten_times_a_true_weight_of_zero_is_the_same_grid_and_drawn_too(tmp_path):
    folder = RunFolder("weight_decay", tmp_path)
    grids = weight_decay.run_grids(replace(SMALL, true_weight=0.0), folder)
    small, large = (
        grids[label]["test_loss"] for label in ("scratch", "scratch, true w 0")
    )
    np.testing.assert_array_equal(small, large)


def test_a_run_that_diverges_ends_in_one_line_and_without_a_summary(tmp_path):
    with pytest.raises(Failed, match=r"^scratch, lambda 1e\+30: .*(nan|inf); try.*$"):
        run(replace(SMALL, out=tmp_path, lambd=1e30))
    assert not (tmp_path / "summary.json").exists()


def test_the_concise_run_starts_from_a_drawn_bias_that_does_not_decay():
    """Without a learning rate it stays; the run from scratch starts from zero."""
    config = replace(SMALL, learning_rate=1e-30)
    problem = linear_problem.draw_problem(config, key=jax.random.key(0))
    train = jax.jit(linear_problem.train, static_argnames=("method", "config"))
    for method, bias in (("concise", problem.bias), ("scratch", 0), ("mapped", 0)):
        last, _ = train(problem, method, 3.0, config)
        np.testing.assert_allclose(last["bias"], bias, atol=1e-20)
    assert problem.bias != 0
