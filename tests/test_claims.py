"""The rule of the verdicts, the list of claims, and a fault that turns each verdict."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import read

from ch4jax import house_prices
from ch4jax.initialization import he_normal, xavier_normal
from experiments import claims
from experiments.claims import (
    capacity,
    depth,
    dropout,
    houses,
    linear,
    recall,
    symmetry,
)
from experiments.claims.claim import FAILS, HOLDS, OPEN, Finding, Setting
from experiments.common import linear_problem, memorisation
from experiments.common.run_folder import RunFolder

YES, NO, MAYBE = np.array([3.0, 3.1, 2.9]), np.array([0.0, 0.1, 0.2]), np.arange(3.0)


def finding(*effects, exact=False):
    by_name = dict(zip("abc", effects, strict=False))
    return Finding("It is so", "4.6", "points", 1.0, by_name, exact)


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


def test_claim_i_is_the_i_th():
    for number, claim in enumerate(claims.CLAIMS.values(), start=1):
        assert claim.__doc__.startswith(f"Claim {number}:")


@pytest.mark.parametrize("effects", [[YES], [-YES, NO], [-MAYBE / 99], [NO, YES, NO]])
def test_a_claim_is_a_line_of_at_most_80_columns(effects):
    for number in range(1, 22):
        line = claims.line(finding(*effects)._replace(number=number))
        assert len(line) <= 80
        assert "\n" not in line


def test_the_summary_has_number_effect_interval_and_verdict(tmp_path, capsys):
    claims.run(claims.Config(numbers=(1, 3), quick=True, out=tmp_path))
    first, third = read(tmp_path)["claims"]
    assert (first["number"], third["number"]) == (1, 3)
    assert first["low"] < first["effect"] < first["high"]
    assert third["low"] == third["effect"] == third["high"]
    assert (first["runs"], first["verdict"]) == (40, HOLDS)
    line = re.compile(r" 1\. more features than rows overfit +([\d.]+) \[.*\] +holds\n")
    printed = line.search(capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(first["effect"] / 0.25, rel=1e-2)
    (table,) = read(tmp_path, "record")["tables"]
    assert len(table["rows"]) == len(first["conditions"]) + len(third["conditions"])
    assert (tmp_path / first["figure"]).exists()


def test_members_with_one_key_learn_the_same_images_and_wrong_labels():
    data = jnp.zeros((50, 28, 28), jnp.uint8), jnp.arange(50) % 10
    clean, noisy = (
        memorisation.draw(data, 40, noise, key=jax.random.key(0))
        for noise in (0.0, 0.3)
    )
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert 0 < (clean[1] != noisy[1]).sum() < 40


def undecayed(problem, method, lambd, config, train=linear_problem.train):
    return train(problem, method, 0 * lambd, config)


def unscaled(units, rate, every_mask=dropout.every_mask):
    return every_mask(units, 0.0)


def without_masks(*args, key, mlp=dropout.mlp):
    return mlp(*args, key=None)


def without_activation(params, x, rates, *, key):
    for layer in params:
        x = x @ layer["kernel"] + layer["bias"][None, :]
    return x


def one_use(*args, uses=symmetry.uses_of_a_layer, **kwargs):
    shared, grads = uses(*args, **kwargs)
    return shared, grads._replace(kernel=grads.kernel.at[1].set(0.0))


def leaking(data, in_training, *rest, fit=houses._fit):
    return fit(data, np.repeat(in_training[:1], len(in_training), axis=0), *rest)


def half_of_he(*args):
    return 0.5 * he_normal(*args)


def few_rows(*, rows, epochs):
    return memorisation.Recipe(rows=100, epochs=epochs)


def in_dollars(predictions, prices):
    return ((predictions - prices) / 180_000) ** 2


UNBOUND = dict.fromkeys(depth.BOUNDS, depth.NO_BOUNDS)
# Number, verdict (a pattern), verdict under a fault, the fault: modules, names, values.
FAULTS = [
    (1, HOLDS, FAILS, (jnp.linalg, "pinv", lambda x: 0 * x.T)),
    (2, HOLDS, FAILS, (capacity, "mlp", without_activation)),
    (3, "holds if a layer or a linear layer", FAILS, (dropout, "every_mask", unscaled)),
    (4, ".*600 images, 30%", FAILS, (dropout, "HALF", dropout.NONE)),
    (5, "(?!holds)", HOLDS, (dropout, "max", lambda *rows, key: 0 * rows[0])),
    (6, "holds if one mask is drawn", FAILS, (dropout, "mlp", without_masks)),
    (7, HOLDS, FAILS, (capacity, "Recipe", few_rows)),
    (
        *(8, ".*L2, many small weights", "(?!holds$|.*L2, many)"),
        (linear.jnp, "logspace", lambda *_: np.full(40, 1e-9)),
    ),
    (9, HOLDS, FAILS, (linear_problem, "train", undecayed)),
    (10, HOLDS, FAILS, (depth, "SMALL", he_normal), (depth, "LARGE", he_normal)),
    (11, HOLDS, FAILS, (depth, "sigmoid_gradient", jnp.ones_like)),
    (
        *(12, HOLDS, f"(?!{HOLDS}$)", (depth, "SIGMOID", depth.RELU)),
        (depth, "xavier_normal", he_normal),
    ),
    (
        *(13, "holds if residual or LSTM with open", "(?!holds)"),
        *((depth, "RESIDUAL", depth.RELU), (recall, "OPEN", 0.0)),
    ),
    (14, HOLDS, FAILS, (depth, "NORMED", depth.RELU), (depth, "BOUNDS", UNBOUND)),
    (15, "holds if ReLU or", "(?!holds$|.*ReLU)", (depth, "he_normal", half_of_he)),
    (16, HOLDS, "holds if no dropout: alike", (symmetry, "RATES", (0.0, 0.0))),
    (16, HOLDS, "holds if dropout: apart", (symmetry, "START", xavier_normal)),
    (
        *(17, f"(?!{FAILS})", FAILS, (optax, "scale_by_adam", optax.identity)),
        (houses, "_house_error", lambda *_: 1.0),
    ),
    (18, HOLDS, f"{FAILS}|{OPEN}", (house_prices, "squared_log_error", in_dollars)),
    (19, HOLDS, FAILS, (houses, "_fit", leaking)),
    (
        *(20, "holds if layer used twice or units", "holds if units"),
        (symmetry, "uses_of_a_layer", one_use),
    ),
    (21, HOLDS, "(?!holds$|.*product)", (capacity, "mlp", without_activation)),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case[0] in (1, 3, 10, 11) else pytest.mark.long)
        for case in FAULTS
    ],
    ids=lambda case: str(case[0]),
)
def test_a_planted_fault_turns_the_verdict(case, tmp_path, monkeypatch):
    number, sound, faulty, *faults = case
    claim = list(claims.CLAIMS.values())[number - 1]
    seed = 1000 if number == 4 else 0  # with few runs claim 4 is near its border
    setting = Setting(number, seed, True, RunFolder("claims", tmp_path))
    assert re.match(sound, claim(setting).verdict())
    jax.clear_caches()  # what is patched must be traced again
    for module, name, value in faults:
        monkeypatch.setattr(module, name, value, raising=False)
    found = claim(setting).verdict()
    jax.clear_caches()
    assert re.match(faulty, found)
