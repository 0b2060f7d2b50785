"""The search on images: each way chooses the least loss of those it trained whole."""

import numpy as np
import pytest
from support import result_of

from experiments import search


@pytest.mark.long
def test_each_way_chooses_what_has_the_least_loss_in_the_end(
    few_images, tmp_path, monkeypatch
):
    for name, value in {
        "LEARNING_RATES": (1e-5, 1e-2),
        "DECAYS": (0.0,),
        "RATES": ((0.0,), (0.5,)),
        "HIDDEN": (16,),
        "ROWS": 200,
        "VALID_ROWS": 100,
        "WAYS": {"halving": (1, 2), "whole grid": (2,)},
        "SEEDS": 2,
    }.items():
        monkeypatch.setattr(search, name, value)
    summary = result_of(search, search.Config(out=tmp_path))
    halving, grid = summary["ways"]
    assert grid["epochs"] == 4 * 2 > halving["epochs"] >= 4
    assert halving["learning_rate"] == grid["learning_rate"] == 1e-2
    assert np.isclose(
        summary["test_loss_difference"], halving["test_loss"] - grid["test_loss"]
    )
    if halving["rates"] == grid["rates"]:
        assert summary["test_loss_difference"] == 0
