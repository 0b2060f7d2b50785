"""The dropout experiment from the command line to the summary."""

from dataclasses import replace
from functools import partial

import pytest
from support import read, result_of, rows

from ch4jax.statistics import Interval
from experiments import dropout
from experiments.common.errors import Failed
from experiments.dropout import lesson

pytestmark = pytest.mark.usefixtures("few_images")

run = partial(result_of, dropout)
SMALL = dropout.Config(hidden=(16, 8), epochs=2, batch_size=64, std=0.1, lesson=False)
FLAX = replace(SMALL, impl="flax", figures=False)


def test_the_run_leaves_summary_metrics_and_figures(tmp_path, capsys):
    summary = run(replace(SMALL, out=tmp_path, seeds=2))
    assert summary["experiment"] == "dropout"
    assert summary["data"] == "mini"
    assert set(summary["seconds"]) == {"compile", "epoch", "total"}
    variants = [(r["impl"], tuple(r["rates"])) for r in summary["results"]]
    assert variants == [
        (impl, rates) for impl in ("scratch", "flax") for rates in ((0.2, 0.5), (0, 0))
    ]
    for result in summary["results"]:
        assert result["seeds"] == 2
        assert result["test_accuracy_std"] is not None
        gap = result["train_accuracy"] - result["test_accuracy"]
        assert result["gap"] == pytest.approx(gap, abs=1e-6)
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2] * 4
    assert read(tmp_path, "config")["data"] == "mini"
    record = read(tmp_path, "record")
    assert [f["file"] for f in record["figures"]] == ["curves.png", "predictions.png"]
    assert record["headline"].startswith("Test accuracy: 0.")
    assert len(record["tables"][0]["rows"]) == 4
    out = capsys.readouterr().out
    for fact in (
        "dropout_layer(x, 0.5",
        "device: cpu",
        "PyTorch's Linear (scratch), N(0, 0.1²) (flax)",
        "test loss",
    ):
        assert fact in out


def test_the_lesson_ends_the_command_with_its_effect_and_interval(
    tmp_path, capsys, monkeypatch
):
    quick = partial(lesson.Recipe, epochs=4, hidden=(16, 8))
    monkeypatch.setattr(lesson, "Recipe", quick)
    config = replace(FLAX, out=tmp_path, lesson=True, train_size=40)
    taught = run(config)["lesson"]
    assert [tuple(entry["rates"]) for entry in taught["results"]] == [*lesson.RATES]
    without, *_, half = (entry["test_accuracy"] for entry in taught["results"])
    assert taught["effect"]["estimate"] == pytest.approx(half - without)
    assert (taught["runs"], taught["rows"], taught["label_noise"]) == (4, 40, 0.3)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{100 * (half - without):+.1f} points at rates 0.5 0.5 (95%" in said


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (Interval(0.1, 0.05, 0.15), "raised the test accuracy: +10.0 points"),
        (Interval(0.0, -0.02, 0.02), "did not clearly change the test accuracy: +0.0"),
        (Interval(-0.1, -0.15, -0.05), "lowered the test accuracy: -10.0 points"),
    ],
)
def test_the_closing_sentence_says_what_the_interval_shows(gain, words):
    assert words in lesson.closing(gain, 0.3)


def test_each_seed_of_a_population_is_the_run_with_that_seed(tmp_path):
    config = replace(FLAX, learning_rate=0.1)
    run(replace(config, out=tmp_path / "together", seed=4, seeds=3))
    run(replace(config, out=tmp_path / "alone", seed=6))
    metrics = (rows(tmp_path / name) for name in ("together", "alone"))
    for together, alone in zip(*metrics, strict=True):
        for name in ("train_loss", "test_loss"):
            assert together[name][2] == pytest.approx(alone[name][0], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_metrics(tmp_path):
    with pytest.raises(Failed, match=r"training loss is (nan|inf) in epoch \d"):
        run(replace(FLAX, out=tmp_path, learning_rate=1e30, epochs=3))
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") >= 1
    assert not (tmp_path / "summary.json").exists()


def test_each_version_starts_as_the_books_and_init_overrides_it():
    both = dropout.Config(std=0.3)
    assert dropout.std_of("scratch", both) is None
    assert dropout.std_of("flax", both) == 0.3
    assert dropout.std_of("flax", replace(both, init="torch")) is None
    assert dropout.std_of("scratch", replace(both, init="normal")) == 0.3


def test_weight_decay_shrinks_the_weights_and_not_the_training(tmp_path):
    config = replace(SMALL, impl="scratch", rates=(0.0, 0.0), figures=False)
    plain = run(replace(config, out=tmp_path / "plain"))["results"][0]
    decayed = run(replace(config, out=tmp_path / "decayed", weight_decay=0.1))
    assert decayed["results"][0]["train_loss"] > plain["train_loss"]


def test_a_member_of_the_sweep_is_the_network_trained_at_its_rate(tmp_path):
    config = replace(SMALL, impl="scratch", rates=(0.5, 0.5), out=tmp_path)
    summary = run(replace(config, sweep=True))
    at_half, at_zero = summary["results"]
    accuracies = summary["sweep"]["test accuracy"]
    assert len(accuracies) == 10
    for member, alone in ((5, at_half), (0, at_zero)):
        assert accuracies[member] == pytest.approx(alone["test_accuracy"], abs=0.021)
    losses = summary["sweep"]["test loss (nats)"]
    assert losses[5] == pytest.approx(at_half["test_loss"], rel=1e-4)
    assert losses[0] == pytest.approx(at_zero["test_loss"], rel=1e-4)
