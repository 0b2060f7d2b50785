"""Faults in the ten models, and operations in place of others, are named."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from parity.models import made
from torch.nn import functional

from ch4jax import parity
from ch4jax.errors import Mismatch
from ch4jax.parity import _causes, _layers

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


X = torch.randn(3, 4, 6, 6, dtype=torch.float64)
SEEN = torch.ones(6, 6, dtype=torch.bool).tril()
CELL = torch.nn.GRU(6, 5, batch_first=True, dtype=torch.float64)
STATE = torch.ones(1, 3, 5, dtype=torch.float64)


def heads(x, split):
    """Return attention without values, of heads that `split` makes."""
    q = split(x.flatten(2))
    return (q @ q.transpose(2, 3)).transpose(1, 2).flatten(2)


def normed(x, shift, count, eps=1e-5):
    """Return a norm over the last axis that is written out."""
    x = x - shift(x)
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / count + eps)


def mean(x):
    return x.mean(-1, keepdim=True)


CASES = {
    "mean for PyTorch's max(-1)": (lambda x: x.max(-1).values, lambda x: x.mean(-1)),
    "sigmoid for PyTorch's hardsigmoid": (functional.hardsigmoid, torch.sigmoid),
    "square for PyTorch's abs": (torch.abs, torch.square),
    "adaptive_max_pool2d for PyTorch's adaptive_avg_pool2d(1)": (
        lambda x: functional.adaptive_avg_pool2d(x, 1),
        lambda x: x.amax((2, 3), keepdim=True),
    ),
    "the mask of where one further": (
        lambda x: torch.where(SEEN, x, 0.0),
        lambda x: torch.where(torch.ones_like(SEEN).tril(1), x, 0.0),
    ),
    "reshape for PyTorch's transpose(1, 2)": (
        lambda x: heads(x, lambda x: x.view(3, 4, 6, 6).transpose(1, 2)),
        lambda x: heads(x, lambda x: x.view(3, 6, 4, 6)),
    ),
    "view with its last two axes in the other order": (
        lambda x: heads(x, lambda x: x.view(3, 4, 6, 6).transpose(1, 2)),
        lambda x: heads(x, lambda x: x.view(3, 4, 6, 6).mT.transpose(1, 2)),
    ),
    "a first state of zeros for PyTorch's in gru": (
        lambda x: CELL(x[:, 0], STATE)[0],
        lambda x: CELL(x[:, 0])[0],
    ),
    "ge for PyTorch's gt(0)": (
        lambda x: (x.round() > 0).double(),
        lambda x: (x.round() >= 0).double(),
    ),
    "rms_norm for PyTorch's layer_norm": (
        lambda x: functional.layer_norm(x, (6,)),
        lambda x: functional.rms_norm(x, (6,), eps=1e-5),
    ),
    "LayerNorm for PyTorch's RMSNorm": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x: normed(x, mean, 6),
    ),
    "the variance for PyTorch's mean of squares": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x: x * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + 1e-5),
    ),
    "a mean over n - 1, as of an unbiased variance": (
        lambda x: (x - mean(x)).pow(2).mean(-1),
        lambda x: x.var(-1),
    ),
    "gelu by tanh for PyTorch's product": (
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "matmul over sqrt(6), as in attention": (
        lambda x: (x @ x.mT).softmax(-1),
        lambda x: (x @ x.mT / 6**0.5).softmax(-1),
    ),
    "the mean over axis 1 for PyTorch's 0": (lambda x: x[:, 0], lambda x: x.mean(1)),
    "tile for PyTorch's repeat_interleave": (
        lambda x: x.repeat_interleave(2, dim=1),
        lambda x: x.tile(2, 1, 1),
    ),
    "flatten of its input with height and width exchanged": (
        lambda x: x.flatten(2),
        lambda x: x.mT.flatten(2),
    ),
}


@pytest.mark.parametrize("words", CASES)
def test_an_operation_that_a_port_has_otherwise_is_named(words):
    theirs, ours = CASES[words]

    def run(changes):
        with _layers.watched(torch.nn.Identity(), changes) as (_, operations):
            return theirs(X), operations

    def agrees(changes):
        return torch.allclose(run(changes)[0], ours(X), 1e-12)

    operations = dict(enumerate(run({})[1]))
    assert f"{words} (with that, PyTorch agrees)" in _causes.tried(operations, agrees)
