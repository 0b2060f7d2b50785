"""The comparison passes what is equal, and finds each fault that is put in."""

import json

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from support import one_line

from ch4jax import blocks, dropout, interop, parity, training, weight_decay
from ch4jax.data import fashion_mnist
from ch4jax.errors import Mismatch
from experiments import compare
from experiments.common.errors import Failed, UsageError
from experiments.pytorch import deep_mlp as deep_mlp_systems
from experiments.pytorch import dropout as dropout_systems
from experiments.pytorch import house_prices as house_systems
from experiments.pytorch import levels, modules, pair, systems, twins
from experiments.pytorch import weight_decay as weight_decay_systems

LAMBD, RATE = weight_decay_systems.LAMBD, weight_decay_systems.RATE
DECAYS = {  # fault -> the optimiser that has it, and ours with the fault
    "after the optimiser's step": (
        "SGD with L2",
        optax.chain(
            optax.sgd(RATE),
            optax.add_decayed_weights(LAMBD, mask=weight_decay.kernel_mask),
        ),
    ),
    "of the bias too": (
        "SGD with L2",
        optax.chain(optax.add_decayed_weights(LAMBD), optax.sgd(RATE)),
    ),
    "AdamW's": ("Adam with L2", weight_decay_systems.OPTIMIZERS["AdamW"][0]),
}


def key():
    return jax.random.key(0)


@pytest.fixture
def images():
    whole = fashion_mnist.load("mini")
    return whole._replace(
        train_images=whole.train_images[:70], train_labels=whole.train_labels[:70]
    )


@pytest.fixture
def perceptron(images):
    _, from_scratch = small_systems("dropout", images)
    return from_scratch


@pytest.fixture
def regression():
    concise, _ = weight_decay_systems.systems(rows=8, num_inputs=6)
    return concise._replace(epochs=1)


def failed(verdicts):
    return [verdict.what for verdict in verdicts if not verdict.passed]


def with_optimizer(system, name, ours):
    pair = system.optimizers[name]._replace(ours=ours)
    return system._replace(optimizers={name: pair})


def with_ours(system, **functions):
    return system._replace(ours=system.ours._replace(**functions))


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
        for system in deep_mlp_systems.systems(images, depth=3, width=8)[2:]:
            yield system._replace(batch_size=32)
    else:
        for system in modules.systems(images):
            if system.name in ("chimera", "SharedMLP", "MyLinear"):
                yield system._replace(epochs=1)


@pytest.mark.parametrize("family", compare.TOPICS)
def test_what_is_equal_passes_every_level(family, images):
    for system in small_systems(family, images):
        report = levels.same_numbers(system, key())
        assert report.passed, f"{system.name}\n{report}"
        assert {check.level for check in report.checks} == {1, 2, 3}
        assert report.layers
        assert failed(levels.whole_runs(system, key())[0]) == [], system.name


@pytest.mark.parametrize("fault", DECAYS)
def test_a_wrong_weight_decay_is_found(fault, regression):
    system = with_optimizer(regression, *DECAYS[fault])
    name, _ = DECAYS[fault]
    assert failed(levels.same_numbers(system, key()).checks) == [f"{name}, 3 steps"]


def test_masks_with_the_wrong_probability_are_found(perceptron, monkeypatch):
    right = dropout.dropout_layer
    monkeypatch.setattr(
        dropout, "dropout_layer", lambda x, rate, *, key: right(x, 1 - rate, key=key)
    )
    with pytest.raises(Mismatch, match=r"dropout rate 0\.8 for PyTorch's 0\.2"):
        levels.same_numbers(perceptron, key())


def test_a_missing_rescaling_is_found(perceptron, monkeypatch):
    right = dropout.dropout_layer
    monkeypatch.setattr(
        dropout,
        "dropout_layer",
        lambda x, rate, *, key: (1 - rate) * right(x, rate, key=key),
    )
    report = levels.same_numbers(perceptron, key())
    assert "outputs in training" in failed(report.checks)
    assert report.first.startswith("4, whose output is ")


def test_one_key_for_two_layers_is_found(perceptron, monkeypatch):
    monkeypatch.setattr(jax.random, "fold_in", lambda key, _: jax.random.clone(key))
    with jax.debug_key_reuse(False):
        found = failed(levels.same_numbers(perceptron, key()).checks)
    assert found[0] == "masks of two layers, correlation"


def test_one_key_for_two_steps_is_found(perceptron):
    def predict(params, x, step_key):
        kept = None if step_key is None else key()
        return dropout.mlp(params, x, (0.2, 0.5), key=kept)

    system = with_ours(perceptron, predict=predict)
    with jax.debug_key_reuse(False):
        found = failed(levels.same_numbers(system, key()).checks)
    assert found == ["masks of two steps, correlation"]


def test_the_sum_of_the_losses_for_their_mean_is_found(regression):
    def summed(_, outputs, labels):
        return len(labels) * jnp.square(outputs - labels)[:, 0]

    system = with_ours(regression, row_losses=summed)
    report = levels.same_numbers(system, key())
    gradients = "gradients of the parameters", "gradient of the input"
    assert failed(report.checks) == ["loss", *gradients]
    assert "out of the loss, Flax's value is 5 times PyTorch's" in report.notes


def test_a_kernel_that_is_not_transposed_is_found(monkeypatch):
    carry = interop.to_torch

    def untransposed(params, like, **names):
        tensors = carry(params, like, **names)
        return {n: t.T if t.ndim == 2 else t for n, t in tensors.items()}

    monkeypatch.setattr(interop, "to_torch", untransposed)
    x = np.random.default_rng(0).normal(size=(32, 20))
    model = blocks.FixedHiddenMLP()  # whose kernel is square
    system = modules.regression("square", model, twins.FixedHiddenMLP, x)
    report = levels.same_numbers(system, key())
    assert "outputs in training" in failed(report.checks)
    assert report.first.startswith("linear, whose output is ")


def test_a_dropped_last_batch_is_found(perceptron, monkeypatch):
    deal = training.batch_rows

    def dropping(*sizes, key):
        return [array[:-1] for array in deal(*sizes, key=key)]

    monkeypatch.setattr(training, "batch_rows", dropping)
    verdict = levels.every_row(perceptron, key())
    assert not verdict.passed
    assert verdict.difference == 70 % 32


def test_batches_that_the_program_does_not_see_are_found(perceptron):
    def without_last(system, key):
        *batches, _ = perceptron.batches(system, key)
        yield from batches

    system = perceptron._replace(batches=without_last)
    found = failed(levels.whole_runs(system, key())[0])
    assert any("compiled" in what for what in found)


def test_flax_default_initialisation_for_pytorchs_is_found(images):
    classifier = modules.nested_classifier(images)
    assert levels.same_start(classifier, key()).passed
    rows = jnp.zeros((1, 784))
    lecun = with_ours(classifier, init=lambda key: blocks.NestMLP().init(key, rows))
    assert not levels.same_start(lecun, key()).passed


def test_outcomes_that_differ_by_the_margin_are_not_equivalent():
    _, regression = weight_decay_systems.systems(rows=8, num_inputs=6)
    outcome = regression.outcome._replace(runs=8, epochs=2, margin=1.0)
    runs = levels.independent_runs(regression, outcome, key())
    assert runs.ours.shape == runs.theirs.shape == (8,)
    near = runs.check
    assert near.difference == np.abs(runs.interval).max()

    wide = outcome._replace(margin=1.01 * near.difference)
    narrow = outcome._replace(margin=0.99 * near.difference)
    for changed, passes in ((wide, True), (narrow, False)):
        runs = levels.independent_runs(regression, changed, key())
        assert runs.check.passed == passes
        assert (runs.p < 0.05) == passes


def test_a_difference_that_is_no_number_fails():
    nan, zeros = {"w": jnp.array([jnp.nan])}, {"w": jnp.zeros(1)}
    for ours, theirs in ((nan, zeros), (zeros, nan)):
        apart = parity.difference(ours, theirs)
        assert not parity.Check(1, "what", "", apart, 1e-12).passed


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
    assert all(row["passed"] for row in summary["verdicts"])
    assert {row["level"] for row in summary["verdicts"]} == {1, 2, 3, 4}
    steps = {dtype: len(c) for dtype, c in summary["courses"][scratch.name].items()}
    assert steps == {"float64": 2, "float32": 2}
    assert len(summary["outcomes"][scratch.name]["theirs"]) == 4
    assert len(record["tables"][0]["rows"]) == len(summary["verdicts"])
    assert [f["file"] for f in record["figures"]] == ["drift.png", "outcomes.png"]
    assert "weight decay, scratch, 18 comparisons, 0 failed" in capsys.readouterr().out


def test_on_another_device_than_the_cpu_both_have_the_same_loss_and_gradients(
    regression, perceptron, tmp_path, monkeypatch
):
    course = {"float64": [0.0], "float32": [0.0]}
    monkeypatch.setattr(levels, "whole_runs", lambda system, key: ([], course))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # a rehearsal
    run_weight_decay(regression, tmp_path, monkeypatch)
    verdicts = read(tmp_path / "summary.json")["verdicts"]
    (beside,) = [row for row in verdicts if "beside the CPU's" in row["what"]]
    assert beside["difference"] == 0
    loss, grads = systems.slope(perceptron, key())
    assert np.isfinite(loss)
    assert all(leaf.any() for leaf in jax.tree.leaves(grads))


def test_a_failed_verdict_fails_the_command(regression, tmp_path, monkeypatch):
    wrong = with_optimizer(regression, "SGD with L2", optax.sgd(RATE))
    with pytest.raises(Failed, match="weight decay, concise, level 2, SGD with L2"):
        run_weight_decay(wrong, tmp_path, monkeypatch)
    summary = read(tmp_path / "summary.json")
    assert not all(row["passed"] for row in summary["verdicts"])
    assert summary["reports"][wrong.name]["notes"] == ["SGD with L2: no decay"]
    assert " failed." in read(tmp_path / "record.json")["headline"]


def test_without_pytorch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install -e "\.\[torch\]"'):
        compare.run(compare.Config(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", ["None", "{'nonsense': 1}"])
def test_options_of_a_pair_that_are_no_arguments_are_one_line(options, tmp_path):
    file = tmp_path / "my_pair.py"
    file.write_text(f"ours = theirs = inputs = labels = 0\noptions = {options}\n")
    with one_line(UsageError, r"options in .*my_pair.py must be arguments of .*compar"):
        pair.read(file)
