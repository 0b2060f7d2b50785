"""The rule of the verdicts, the list of claims, and claims about rows and weights."""

import json
import re

import jax
import numpy as np
import pytest

from experiments import claims
from experiments.claims import capacity, linear
from experiments.claims.claim import FAILS, HOLDS, OPEN, Finding, Setting
from experiments.common import linear_problem
from experiments.common.errors import UsageError
from experiments.common.run_folder import RunFolder

YES, NO, MAYBE = np.array([3.0, 3.1, 2.9]), np.array([0.0, 0.1, 0.2]), np.arange(3.0)


@pytest.fixture
def quick(tmp_path):
    jax.clear_caches()  # what is patched must be traced again
    return Setting(1000, True, RunFolder("claims", tmp_path))


def finding(*effects, exact=False):
    by_name = dict(zip("abc", effects, strict=False))
    return Finding(1, "It is so", "4.6", "points", 1.0, by_name, "f.png", exact)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ([YES], HOLDS),
        ([YES, YES], HOLDS),
        ([YES, NO, YES], "holds if a or c"),
        ([MAYBE, YES], "holds if b"),
        ([NO, MAYBE], OPEN),
        ([NO, NO], FAILS),
        ([-YES], FAILS),
    ],
)
def test_a_claim_holds_where_the_whole_interval_reaches_the_smallest_effect(
    effects, verdict
):
    assert finding(*effects).verdict() == verdict


def test_an_exact_claim_has_no_width():
    assert finding(np.array([2.0]), exact=True).intervals()["a"] == (2.0, 2.0, 2.0)


def test_claim_i_is_the_i_th():
    for number, claim in enumerate(claims.CLAIMS.values(), start=1):
        assert claim.__doc__.startswith(f"Claim {number}:")


@pytest.mark.parametrize("effects", [[YES], [-YES, NO], [-MAYBE / 99], [NO, YES, NO]])
def test_a_claim_is_a_line_of_at_most_80_columns(effects):
    for number in range(1, 22):
        line = claims.line(finding(*effects)._replace(number=number))
        assert len(line) <= 80
        assert "\n" not in line


@pytest.mark.parametrize("number", [0, 22, -1])
def test_a_claim_that_there_is_not_is_refused(number):
    with pytest.raises(UsageError, match=rf"claims are 1 to 21, got {number}"):
        claims.Config(numbers=(number,))


def test_the_summary_has_number_effect_interval_and_verdict(tmp_path, capsys):
    claims.run(claims.Config(numbers=(1, 3), quick=True, out=tmp_path))
    first, third = json.loads((tmp_path / "summary.json").read_text())["claims"]
    assert (first["number"], third["number"]) == (1, 3)
    assert first["low"] < first["effect"] < first["high"]
    assert third["low"] == third["effect"] == third["high"]
    assert (first["runs"], first["verdict"]) == (40, HOLDS)
    line = re.compile(r" 1\. more features than rows overfit +([\d.]+) \[.*\] +holds\n")
    printed = line.search(capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(first["effect"] / 0.25, rel=1e-2)
    (table,) = json.loads((tmp_path / "record.json").read_text())["tables"]
    assert len(table["rows"]) == len(first["conditions"]) + len(third["conditions"])
    assert (tmp_path / first["figure"]).exists()


@pytest.mark.long
@pytest.mark.parametrize("decayed", [True, False])
def test_lambda_3_helps_unless_nothing_is_decayed(quick, monkeypatch, decayed):
    train = linear_problem.train
    if not decayed:

        def undecayed(problem, method, lambd, config):
            return train(problem, method, 0 * lambd, config)

        monkeypatch.setattr(linear_problem, "train", undecayed)
    assert linear.decay_helps(quick).verdict() == (HOLDS if decayed else FAILS)


@pytest.mark.long
@pytest.mark.parametrize("shrunk", [True, False])
def test_dropping_is_blunter_than_shrinking_unless_nothing_is_shrunk(
    quick, monkeypatch, shrunk
):
    if not shrunk:
        monkeypatch.setattr(linear.jnp, "logspace", lambda *_: np.full(40, 1e-9))
    found = linear.dropping_is_blunter(quick).intervals()["L2, many small weights"]
    assert (found.estimate > 0.05) == shrunk


@pytest.mark.long
@pytest.mark.parametrize("hidden", [True, False])
def test_a_network_knows_an_interaction_unless_it_is_linear(quick, monkeypatch, hidden):
    if not hidden:
        monkeypatch.setattr(capacity, "mlp", without_activation)
    effect, _, _ = capacity.interactions(quick).intervals()[
        "the product of two inputs decides"
    ]
    assert (effect > 20) == hidden


def without_activation(params, x, rates, *, key):
    for layer in params:
        x = x @ layer["kernel"] + layer["bias"][None, :]
    return x
