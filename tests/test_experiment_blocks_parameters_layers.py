"""What the book prints in these sections, and the same as facts in the summaries."""

import io
import tempfile
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support import result_of

from experiments import blocks, layers, parameters

FIRST, LAST = "params/layers_0/kernel", "params/layers_2/kernel"
BIASES = ("params/layers_0/bias", "params/layers_2/bias")
PRINTED = """
nn.Sequential: shape (2, 10)
MLP: shape (2, 10)
MySequential: shape (2, 10)
FixedHiddenMLP: 0.
chimera, the blocks nested in one another: -0.
nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(1))): shape (2, 1)
parameters of its last layer: {'kernel': Array(
params/layers_2/bias: [-0.0
params/layers_0/kernel  (4, 8)
RGNet: shape (2, 1)
  (block3): Block(
Init params/layers_2/kernel (8, 1)
params/layers_0/bias (8,), of unit 0: 0.0
params/layers_2/kernel (8, 1), of unit 0: [42. 42. 42. 42. 42. 42. 42. 42.]
plus 1, and 42 at [0, 0]: [42.
one module listed twice                      True
CenteredLayer of 1, 2, 3, 4, 5: [-2. -1.  0.  1.  2.]
CenteredLayer after nn.Dense(128), of (4, 8): mean
weight of MyLinear(5, 3): shape (5, 3)
MyLinear(5, 3) of two rows: shape (2, 3)
MyLinear(64, 8), then MyLinear(8, 1), of two rows: shape (2, 1)
"""


@cache
def run(command):
    """Return summary and output; each command runs once."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as out:
        summary = result_of(command, command.Config(out=Path(folder)))
    return summary, out.getvalue()


def test_every_print_of_the_text_has_its_answer():
    output = "".join(run(command)[1] for command in (blocks, parameters, layers))
    for line in PRINTED.strip("\n").splitlines():
        assert line in output


def test_three_perceptrons_agree():
    summary, _ = run(blocks)
    assert list(summary["shapes"].values()) == [[2, 10]] * 3
    assert summary["my_sequential_is_sequential"]
    assert summary["mlp_is_sequential_with_its_parameters"]


def test_the_loop_keeps_values_small_and_gradients_fall_with_the_input():
    summary, _ = run(blocks)
    assert 0 < abs(summary["fixed_hidden"]) <= 1
    assert 0 < abs(summary["chimera"]) <= 1
    arrays = summary["fixed_hidden_arrays"]
    assert arrays.pop("constants/rand_weight") == [20, 20]
    assert arrays == {"params/linear/bias": [20], "params/linear/kernel": [20, 20]}
    halvings = summary["halvings"]
    assert halvings["all_finite"]
    assert 0 < halvings["largest_value"] <= 1
    assert 0 < halvings["norm_at_1e4"] < 1e-2 * halvings["norm_at_1e-4"]


def test_parameters_are_arrays_by_path_without_a_grad():
    summary, _ = run(parameters)
    shapes = summary["parameters"]
    assert shapes == {BIASES[0]: [8], FIRST: [4, 8], BIASES[1]: [1], LAST: [8, 1]}
    assert not summary["bias_has_grad"]
    assert summary["gradient_of_bias"] == [2.0]  # of a sum over two rows
    assert summary["nested_count"] == 309
    assert len(summary["nested_paths"]) == 18
    assert "block3/Dense_1/kernel" in summary["nested_paths"]


def test_every_rule_draws_the_leaves_that_it_names():
    drawn = run(parameters)[0]["drawn"]
    for name in ("normal", "constant"):
        assert np.unique(np.concatenate([drawn[name][path] for path in BIASES])) == [0]
    normal, constant, custom = (
        np.concatenate([np.ravel(drawn[name][path]) for path in (FIRST, LAST)])
        for name in ("normal", "constant", "custom")
    )
    assert abs(normal.std() / 0.01 - 1) <= 5 / np.sqrt(2 * normal.size)
    assert np.unique(constant) == [1]
    xavier, last = (np.array(drawn["xavier and 42"][path]) for path in (FIRST, LAST))
    assert np.abs(xavier).max() <= np.sqrt(6 / 12)
    assert np.unique(xavier).size == 32
    assert np.unique(last) == [42]
    sizes = np.abs(custom)
    assert ((sizes == 0) | ((sizes >= 5) & (sizes <= 10))).all()
    assert abs((sizes == 0).sum() - 20) <= 5 * np.sqrt(10)  # Binomial(40, 1/2)


def test_what_is_frozen_does_not_move_and_the_rest_does():
    moved = run(parameters)[0]["moved"]
    assert set(moved) == {"SGD with momentum", "Adam with L2"}
    for distances in moved.values():
        for path, distance in distances.items():
            assert (distance == 0) == path.startswith("params/layers_0/")


def test_centering_has_no_parameters_and_a_mean_of_zero():
    summary, _ = run(layers)
    assert summary["centered"] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert abs(summary["mean_after_centering"]) <= 1e-6
    assert summary["layers_with_parameters"] == ["layers_0"]


def test_my_linear_learns_and_the_books_reading_of_data_does_not():
    summary, _ = run(layers)
    changes, stopped = summary["largest_changes"]
    assert changes > 0.1
    assert stopped == 0
    first, same_first = summary["first_losses"]
    last, last_stopped = summary["last_losses"]
    assert first == pytest.approx(same_first)
    assert last < 0.1 * last_stopped < 0.1 * first
