"""What the book prints in these sections, as facts in the summaries."""

import json

import numpy as np
import pytest

from experiments import blocks, layers, parameters
from experiments.common.console import Report

FIRST, LAST = "params/layers_0/kernel", "params/layers_2/kernel"


def summary_of(experiment, folder):
    name = experiment.__name__.rpartition(".")[2]
    experiment.run(experiment.Config(out=folder), Report(name))
    assert json.loads((folder / "config.json").read_text())["seed"] == 0
    figures = [figure.name for figure in folder.glob("*.png")]
    return json.loads((folder / "summary.json").read_text()) | {"figures": figures}


@pytest.fixture(scope="module")
def of_blocks(tmp_path_factory):
    return summary_of(blocks, tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def of_parameters(tmp_path_factory):
    return summary_of(parameters, tmp_path_factory.mktemp("parameters"))


@pytest.fixture(scope="module")
def of_layers(tmp_path_factory):
    return summary_of(layers, tmp_path_factory.mktemp("layers"))


def test_three_perceptrons_return_ten_numbers_a_row_and_agree(of_blocks):
    assert set(of_blocks["shapes"]) == {"nn.Sequential", "MLP", "MySequential"}
    assert set(map(tuple, of_blocks["shapes"].values())) == {(2, 10)}
    assert of_blocks["my_sequential_is_sequential"]
    assert of_blocks["mlp_is_sequential_with_its_parameters"]


def test_the_fixed_block_and_the_chimera_return_one_number_of_at_most_1(of_blocks):
    assert 0 < abs(of_blocks["fixed_hidden"]) <= 1
    assert 0 < abs(of_blocks["chimera"]) <= 1
    assert of_blocks["fixed_hidden_arrays"] == {
        "constants/rand_weight": [20, 20],
        "params/linear/bias": [20],
        "params/linear/kernel": [20, 20],
    }


def test_halving_keeps_values_small_and_gradients_fall_with_the_input(of_blocks):
    assert of_blocks["figures"] == ["halvings.png"]
    halvings = of_blocks["halvings"]
    assert halvings["all_finite"]
    assert 0 < halvings["largest_value"] <= 1
    assert 0 < halvings["norm_at_1e4"] < 1e-2 * halvings["norm_at_1e-4"]


def test_parameters_are_arrays_by_path_without_a_grad(of_parameters):
    assert of_parameters["output_shape"] == [2, 1]
    assert of_parameters["parameters"] == {
        "params/layers_0/bias": [8],
        FIRST: [4, 8],
        "params/layers_2/bias": [1],
        LAST: [8, 1],
    }
    assert len(of_parameters["bias"]) == 1
    assert not of_parameters["bias_has_grad"]
    assert of_parameters["gradient_of_bias"] == [2.0]  # of a sum over two rows


def test_four_nested_blocks_have_eighteen_parameters_by_path(of_parameters):
    assert of_parameters["nested_output_shape"] == [2, 1]
    assert of_parameters["nested_count"] == 309
    paths = of_parameters["nested_paths"]
    assert len(paths) == 18
    assert "block3/Dense_1/kernel" in paths


def test_normal_and_constant_rules_set_every_layer_and_the_biases_to_zero(
    of_parameters,
):
    normal, constant = (of_parameters["drawn"][name] for name in ("normal", "constant"))
    drawn = np.concatenate([np.ravel(normal[FIRST]), np.ravel(normal[LAST])])
    assert abs(drawn.std() / 0.01 - 1) <= 5 / np.sqrt(2 * drawn.size)
    for path in (FIRST, LAST):
        assert np.unique(constant[path]) == [1]
    for rules in (normal, constant):
        for path in ("params/layers_0/bias", "params/layers_2/bias"):
            assert np.unique(rules[path]) == [0]


def test_xavier_reaches_the_first_layer_and_42_the_last(of_parameters):
    drawn = of_parameters["drawn"]["xavier and 42"]
    assert np.abs(drawn[FIRST]).max() <= np.sqrt(6 / 12)
    assert np.unique(drawn[FIRST]).size == 32
    assert np.unique(drawn[LAST]) == [42]


def test_the_custom_rule_leaves_zeros_and_what_is_5_to_10_in_size(of_parameters):
    drawn = of_parameters["drawn"]["custom"]
    sizes = np.abs(np.concatenate([np.ravel(drawn[FIRST]), np.ravel(drawn[LAST])]))
    assert ((sizes == 0) | ((sizes >= 5) & (sizes <= 10))).all()
    # About half: Binomial(40, 1/2).
    assert abs((sizes == 0).sum() - 20) <= 5 * np.sqrt(10)


def test_setting_adds_one_and_42_and_leaves_the_old_array(of_parameters):
    drawn = of_parameters["drawn"]
    expected = np.array(drawn["custom"][FIRST], np.float32) + 1
    expected[0, 0] = 42
    np.testing.assert_array_equal(np.array(drawn["set"], np.float32), expected)
    assert drawn["as it was"] == drawn["custom"][FIRST]


def test_a_layer_is_shared_in_three_ways(of_parameters):
    assert of_parameters["untied_count"] - of_parameters["shared_count"] == 8 * 8 + 8
    assert len(of_parameters["sharing"]) == 3
    for facts in of_parameters["sharing"].values():
        assert facts["in_both"]
        assert facts["off"] <= 1e-5


def test_what_is_frozen_does_not_move_and_the_rest_does(of_parameters):
    assert set(of_parameters["moved"]) == {"SGD with momentum", "Adam with L2"}
    for distances in of_parameters["moved"].values():
        for path, distance in distances.items():
            assert (distance == 0) == path.startswith("params/layers_0/")


def test_centering_moves_1_to_5_and_a_whole_batch_to_mean_zero(of_layers):
    assert of_layers["centered"] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert abs(of_layers["mean_after_centering"]) <= 1e-6
    assert of_layers["layers_with_parameters"] == ["layers_0"]


def test_my_linear_has_the_books_shapes_and_nothing_below_zero(of_layers):
    assert of_layers["weight_shape"] == [5, 3]
    assert np.shape(of_layers["linear"]) == (2, 3)
    assert np.min(of_layers["linear"]) >= 0
    assert of_layers["network_shape"] == [2, 1]
    assert np.min(of_layers["network"]) >= 0


def test_my_linear_learns_and_the_books_reading_of_data_does_not(of_layers):
    assert of_layers["figures"] == ["learning.png"]
    changes, stopped = of_layers["largest_changes"]
    assert changes > 0.1
    assert stopped == 0
    first, same_first = of_layers["first_losses"]
    last, last_stopped = of_layers["last_losses"]
    assert first == pytest.approx(same_first)
    assert last < 0.1 * last_stopped < 0.1 * first
