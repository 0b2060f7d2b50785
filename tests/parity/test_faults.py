"""Faults in the text of the ten models: each turns the verdict, and is named."""

import importlib
import inspect
from pathlib import Path

import pytest
from parity.models import made

from ch4jax import parity
from ch4jax.errors import Mismatch

TABLE = Path(__file__).with_name("faults.txt").read_text(encoding="utf-8")
ROWS = [line.replace(r"\n", "\n") for line in TABLE.splitlines()[4:]]
FAULTS = [[cell.strip(" ") for cell in row.split("|")] for row in ROWS]
QUICK = ("vae", "tied")


def report_of(fault):
    """Return the verdict, and what the report or the error says."""
    name, right, wrong, _ = fault
    module = importlib.import_module(f"parity.models.{name.strip('*')}")
    text = inspect.getsource(module)
    assert right in text
    model = {"__name__": module.__name__}
    exec(compile(text.replace(right, wrong, 1), module.__file__, "exec"), model)
    arguments, options = made(model)
    pairs = {"SGD": parity.optimizers()["SGD"]}
    try:
        report = parity.compare(*arguments, **options, pairs=pairs, steps=0)
    except Mismatch as error:
        return False, str(error)
    return report.passed, str(report)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, marks=() if fault[0].strip("*") in QUICK else pytest.mark.long
        )
        for fault in FAULTS
    ],
    ids=lambda fault: f"{fault[0]}-{fault[2]}",
)
def test_a_fault_turns_the_verdict_and_is_named(fault):
    passed, text = report_of(fault)
    assert not passed
    assert all(words in text for words in fault[3].split(" * ")), text


def test_each_model_has_four_faults_and_ten_have_no_parameters():
    names = [fault[0].strip("*") for fault in FAULTS]
    assert {names.count(name) for name in names} == {4}
    assert len(names) == 40
    assert sum(fault[0].endswith("*") for fault in FAULTS) >= 10
