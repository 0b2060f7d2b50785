"""The claims about symmetry, and that a planted fault turns each verdict."""

import pytest

from ch4jax.initialization import xavier_normal
from experiments.claims import symmetry
from experiments.claims.claim import HOLDS, Setting
from experiments.common.run_folder import RunFolder


@pytest.fixture
def setting(tmp_path):
    return Setting(0, True, RunFolder("claims", tmp_path))


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "value", "left"),
    [
        ("RATES", (0.0, 0.5), HOLDS),
        ("RATES", (0.0, 0.0), "holds if no dropout: alike"),
        ("START", xavier_normal, "holds if dropout: apart"),
    ],
)
def test_dropout_parts_units_that_start_alike(setting, monkeypatch, fault, value, left):
    monkeypatch.setattr(symmetry, fault, value)
    assert symmetry.units_stay_alike(setting).verdict() == left


@pytest.mark.long
def test_a_shared_gradient_is_the_sum_unless_a_use_is_left_out(setting, monkeypatch):
    both = "holds if layer used twice or units from a constant"
    assert symmetry.shared_layer(setting).verdict() == both

    def one_use(*args, uses=symmetry.uses_of_a_layer, **kwargs):
        shared, grads = uses(*args, **kwargs)
        return shared, grads._replace(kernel=grads.kernel.at[1].set(0.0))

    monkeypatch.setattr(symmetry, "uses_of_a_layer", one_use)
    finding = symmetry.shared_layer(setting)
    assert finding.verdict() == "holds if units from a constant"
