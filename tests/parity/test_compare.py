"""The comparison passes what is equal, and finds each fault that is put in."""

import json

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from ch4jax import blocks, dropout, interop, training, weight_decay
from ch4jax.data import fashion_mnist
from ch4jax.layers import MyLinear
from ch4jax.parameters import SharedMLP
from experiments import compare
from experiments.common import cli
from experiments.common.errors import Failed, UsageError
from experiments.pytorch import deep_mlp as deep_mlp_systems
from experiments.pytorch import dropout as dropout_systems
from experiments.pytorch import house_prices as house_systems
from experiments.pytorch import levels, modules, outcomes, twins
from experiments.pytorch import weight_decay as weight_decay_systems

LAMBD, RATE = 3.0, 0.003


def key():
    return jax.random.key(0)


@pytest.fixture
def images():
    whole = fashion_mnist.load("mini")
    return whole._replace(
        train_images=whole.train_images[:70], train_labels=whole.train_labels[:70]
    )


@pytest.fixture
def perceptrons(images):
    return list(small_systems("dropout", images))


@pytest.fixture
def regression():
    concise, _ = weight_decay_systems.systems(rows=8, num_inputs=6)
    kept = ("SGD with L2", "Adam with L2")
    optimizers = {name: concise.optimizers[name] for name in kept}
    return concise._replace(epochs=1, optimizers=optimizers)


@pytest.fixture
def fixed_hidden():
    model = blocks.FixedHiddenMLP()
    return module_system("FixedHiddenMLP", model, twins.FixedHiddenMLP, 20)


def module_system(name, model, twin, width):
    x = np.random.default_rng(0).normal(size=(32, width))
    return modules.regression(name, model, twin, x)._replace(epochs=1)


def failed(verdicts):
    return [verdict.what for verdict in verdicts if not verdict.passed]


def with_optimizer(system, name, ours):
    _, theirs = system.optimizers[name]
    return system._replace(optimizers={name: (ours, theirs)})


def with_ours(system, **functions):
    return system._replace(ours=system.ours._replace(**functions))


def whole_runs(system):
    return levels.whole_runs(system, key(), *levels.whole_run(system, "float64", key()))


def small_systems(family, images):
    """Yield systems of a family that are small enough for a test."""
    if family == "dropout":
        for system in dropout_systems.systems(images, hidden=(16, 16))[:2]:
            yield system._replace(batch_size=32, epochs=1)
    elif family == "weight_decay":
        for system in weight_decay_systems.systems(rows=8, num_inputs=6):
            yield system._replace(epochs=1)
    elif family == "house_prices":
        for system in house_systems.systems(num_rows=100):
            yield system._replace(epochs=2)
    elif family == "initialization":
        for system in deep_mlp_systems.systems(images, depth=3, width=8):
            yield system._replace(batch_size=32)
    else:
        yield module_system("chimera", blocks.chimera(), twins.chimera, 20)
        yield module_system("SharedMLP", SharedMLP(), twins.SharedMLP, 4)
        yield module_system("MyLinear", MyLinear(5, 3), lambda: twins.MyLinear(5, 3), 5)


@pytest.mark.parametrize("family", compare.TOPICS)
def test_what_is_equal_passes_every_level(family, images):
    for system in small_systems(family, images):
        verdicts, _ = levels.given_the_same(system, key())
        assert failed(verdicts) == [], system.name
        assert {verdict.level for verdict in verdicts} == {1, 2, 3}


def test_decay_after_the_optimiser_step_is_found(regression):
    late = optax.chain(
        optax.sgd(RATE),
        optax.add_decayed_weights(LAMBD, mask=weight_decay.kernel_mask),
    )
    system = with_optimizer(regression, "SGD with L2", late)
    assert failed(levels.one_step(system, "float64", key()))


def test_a_decayed_bias_is_found(regression):
    both = optax.chain(optax.add_decayed_weights(LAMBD), optax.sgd(RATE))
    system = with_optimizer(regression, "SGD with L2", both)
    assert failed(levels.one_step(system, "float64", key()))


def test_adamw_for_adam_with_l2_is_found(regression):
    adamw = optax.adamw(RATE, weight_decay=LAMBD, mask=weight_decay.kernel_mask)
    system = with_optimizer(regression, "Adam with L2", adamw)
    assert failed(levels.one_step(system, "float64", key()))


def test_masks_with_the_wrong_probability_are_found(perceptrons, monkeypatch):
    def swapped(x, rate, *, key):
        keep = jax.random.bernoulli(key, rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), 0.0)

    monkeypatch.setattr(dropout, "dropout_layer", swapped)
    found = failed(levels.honest_masks(perceptrons[1], key()))
    assert found == ["fraction kept by the masks (deviations)"]


def test_a_missing_rescaling_is_found(perceptrons, monkeypatch):
    def unscaled(x, rate, *, key):
        return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x, 0.0)

    monkeypatch.setattr(dropout, "dropout_layer", unscaled)
    found = failed(levels.same_numbers(perceptrons[1], "float64", key()))
    assert "outputs, float64" in found


def test_one_key_for_two_layers_is_found(perceptrons):
    def masks(params, rows, key):
        ones = jnp.ones((len(rows), 16))
        return [dropout.dropout_layer(ones, r, key=key) != 0 for r in (0.2, 0.5)]

    careless = with_ours(perceptrons[1], masks=masks)
    with jax.debug_key_reuse(False):
        found = failed(levels.honest_masks(careless, key()))
    assert found == ["masks of two layers, correlation (deviations)"]


def test_one_key_for_two_steps_is_found(perceptrons):
    drawn = perceptrons[1].ours.masks

    def masks(params, rows, key):
        return drawn(params, rows, jax.random.key(0))

    found = failed(levels.honest_masks(with_ours(perceptrons[1], masks=masks), key()))
    assert found == ["masks of two steps, correlation (deviations)"]


def test_the_sum_of_the_losses_for_their_mean_is_found(regression):
    def summed(_, outputs, labels):
        return len(labels) * jnp.square(outputs - labels)[:, 0]

    system = with_ours(regression, row_losses=summed)
    found = failed(levels.same_numbers(system, "float64", key()))
    assert found == ["loss, float64", "gradients, float64"]


def test_a_kernel_that_is_not_transposed_is_found(fixed_hidden, monkeypatch):
    carry = interop.to_torch

    def untransposed(params, like, **names):
        tensors = carry(params, like, **names)
        return {n: t.T if t.ndim == 2 else t for n, t in tensors.items()}

    monkeypatch.setattr(interop, "to_torch", untransposed)
    found = failed(levels.same_numbers(fixed_hidden, "float64", key()))
    assert "outputs, float64" in found


def test_a_dropped_last_batch_is_found(perceptrons, monkeypatch):
    deal = training.batch_rows

    def dropping(num_rows, batch_size, *, key):
        rows, real = deal(num_rows, batch_size, key=key)
        return rows[:-1], real[:-1]

    monkeypatch.setattr(training, "batch_rows", dropping)
    verdict = levels.every_row(perceptrons[0], key())
    assert not verdict.passed
    assert verdict.difference == 70 % 32


def test_batches_that_the_program_does_not_see_are_found(perceptrons):
    def without_last(system, key):
        *batches, _ = perceptrons[0].batches(system, key)
        yield from batches

    system = perceptrons[0]._replace(batches=without_last)
    assert any("compiled" in what for what in failed(whole_runs(system)))


def test_flax_default_initialisation_for_pytorchs_is_found(images):
    classifier = modules.nested_classifier(images)
    assert outcomes.same_start(classifier, key()).passed
    rows = jnp.zeros((1, 784))
    lecun = with_ours(classifier, init=lambda key: blocks.NestMLP().init(key, rows))
    assert not outcomes.same_start(lecun, key()).passed


def test_outcomes_that_differ_by_the_margin_are_not_equivalent():
    _, regression = weight_decay_systems.systems(rows=8, num_inputs=6)
    outcome = regression.outcome._replace(runs=8, epochs=2, margin=1.0)
    runs = outcomes.independent_runs(regression, outcome, key())
    assert runs.ours.shape == runs.theirs.shape == (8,)
    near = outcomes.equivalence(regression, runs)
    assert near.difference == np.abs(runs.interval).max()

    wide = outcome._replace(margin=1.01 * near.difference)
    narrow = outcome._replace(margin=0.99 * near.difference)
    for changed, passes in ((wide, True), (narrow, False)):
        runs = outcomes.independent_runs(regression, changed, key())
        assert outcomes.equivalence(regression, runs).passed == passes
        assert (runs.p < outcomes.ALPHA) == passes


def test_a_difference_that_is_no_number_fails():
    nan, zeros = {"w": jnp.array([jnp.nan])}, {"w": jnp.zeros(1)}
    for ours, theirs in ((nan, zeros), (zeros, nan)):
        apart = levels.difference(ours, theirs)
        assert not levels.Verdict("system", 1, "what", apart, 1e-12).passed


def run_weight_decay(system, out, monkeypatch):
    monkeypatch.setattr(weight_decay_systems, "systems", lambda: [system])
    compare.run(compare.Config(systems=("weight_decay",), out=out))


def read(file):
    return json.loads(file.read_text())


def test_the_command_prints_its_verdicts_and_leaves_them(tmp_path, monkeypatch, capsys):
    _, scratch = weight_decay_systems.systems(rows=8, num_inputs=6)
    outcome = scratch.outcome._replace(runs=4, epochs=1, margin=10.0)
    run_weight_decay(scratch._replace(epochs=1, outcome=outcome), tmp_path, monkeypatch)
    summary, record = (read(tmp_path / f"{n}.json") for n in ("summary", "record"))
    assert {row["verdict"] for row in summary["verdicts"]} == {"equal"}
    assert {row["level"] for row in summary["verdicts"]} == {1, 2, 3, 4}
    steps = {dtype: len(c) for dtype, c in summary["courses"][scratch.name].items()}
    assert steps == {"float64": 2, "float32": 2}
    assert len(summary["outcomes"][scratch.name]["theirs"]) == 4
    assert len(record["tables"][0]["rows"]) == len(summary["verdicts"])
    assert [f["file"] for f in record["figures"]] == ["drift.png", "outcomes.png"]
    assert "weight decay, scratch, 13 comparisons, 0 failed" in capsys.readouterr().out


def test_a_failed_verdict_fails_the_command(regression, tmp_path, monkeypatch):
    wrong = with_optimizer(regression, "SGD with L2", optax.sgd(RATE))
    with pytest.raises(Failed, match="weight decay, concise, level 2, SGD with L2"):
        run_weight_decay(wrong, tmp_path, monkeypatch)
    verdicts = read(tmp_path / "summary.json")["verdicts"]
    assert "failed" in {row["verdict"] for row in verdicts}
    assert " failed." in read(tmp_path / "record.json")["headline"]


def test_without_pytorch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "ch4jax\[torch\]"'):
        compare.run(compare.Config(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_topic_is_named(capsys):
    with pytest.raises(SystemExit):
        cli.parse(compare.Config, ["atoms"])
    assert "atoms" in capsys.readouterr().err
