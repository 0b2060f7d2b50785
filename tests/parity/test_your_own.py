"""Ten models that are not ours, held to PyTorch's, and forty faults planted in them."""

import copy
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from parity.models.test_exchange import NAMES

from ch4jax import parity
from ch4jax.errors import Mismatch

EACH = [
    name if name in ("encoder", "vae") else pytest.param(name, marks=pytest.mark.long)
    for name in NAMES
]
QUICK = ("SGD, momentum", "AdamW")


def pair(name):
    model = importlib.import_module(f"parity.models.{name}")
    torch.manual_seed(0)
    inputs, labels = model.example(0)
    arguments = model.flax_module(), model.torch_module(), inputs, labels
    return arguments, {"losses": (model.flax_loss, model.torch_loss), **model.OPTIONS}


def some(names):
    ready = parity.optimizers()
    return {name: ready[name] for name in names}


def layers_of(module):
    """Return two layers and one before which to plant, in the order they are used."""
    used = []

    def note(name):
        return lambda *_: used.append(name)

    module = copy.deepcopy(module)
    for name, part in module.named_modules():
        if list(part.parameters(recurse=False)) and not list(part.children()):
            part.register_forward_hook(note(name))
    return module, used


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_equal_and_no_setting_stays_changed(name):
    arguments, options = pair(name)
    before = {k: v.clone() for k, v in arguments[1].state_dict().items()}
    report = parity.compare(*arguments, **options, pairs=some(QUICK), steps=4)
    assert report.passed, f"\n{report}"
    assert not report.first
    assert report.layers
    after = arguments[1].state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not jax.config.jax_enable_x64
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_equal_under_every_optimizer_over_fifty_steps(name):
    arguments, options = pair(name)
    report = parity.compare(*arguments, **options)
    assert report.passed, f"\n{report}"


def scaled(part):
    part.register_forward_hook(lambda _, __, out: _scale(out))


def scaled_before(part):
    part.register_forward_pre_hook(
        lambda _, args: tuple(_scale(a) if a.is_floating_point() else a for a in args)
    )


def _scale(out):
    return (_scale(out[0]), *out[1:]) if isinstance(out, tuple) else out * 1.01


def stopped(part):
    def stop(_, __, out):
        return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()

    part.register_forward_hook(stop)


def planted(name, index, plant):
    """Compare with a fault in a layer; return the report and the layer's name."""
    (ours, theirs, inputs, labels), options = pair(name)
    probe, used = layers_of(theirs)
    model = importlib.import_module(f"parity.models.{name}")
    with torch.no_grad():
        probe(*(torch.tensor(x).to(_like(x)) for x in inputs))
    layer = [*dict.fromkeys(used)][index]
    faulty = copy.deepcopy(theirs)
    plant(faulty.get_submodule(layer))
    options["losses"] = (model.flax_loss, model.torch_loss)
    return parity.compare(ours, faulty, inputs, labels, **options, steps=0), layer


def _like(x):
    return torch.float32 if x.dtype.kind == "f" else torch.int64


FAULTS = {
    "first layer": (0, scaled),
    "last layer": (-1, scaled),
    "before the second layer": (1, scaled_before),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", EACH)
def test_a_fault_turns_the_verdict_and_is_named(name, fault):
    report, layer = planted(name, *FAULTS[fault])
    assert not report.passed
    assert layer in report.first, f"{layer}\n{report}"


@pytest.mark.parametrize("name", EACH)
def test_a_gradient_that_stops_turns_the_verdict(name):
    report, _ = planted(name, 0, stopped)
    failed = {check.what for check in report.checks if not check.passed}
    assert "gradients of the parameters" in failed


class Normed(linen.Module):
    epsilon: float = 1e-5
    rate: float = 0.1

    @linen.compact
    def __call__(self, x, *, train=False):
        x = linen.LayerNorm(epsilon=self.epsilon)(linen.Dense(6)(x))
        x = linen.Dropout(self.rate, deterministic=not train)(linen.relu(x))
        return linen.Dense(3)(x)


def normed():
    rng = np.random.default_rng(0)
    module = torch.nn.Sequential(
        *(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.ReLU()),
        *(torch.nn.Dropout(0.1), torch.nn.Linear(6, 3)),
    )
    return module, rng.normal(size=(20, 4)), rng.integers(0, 3, 20)


def test_an_epsilon_is_named_with_both_values():
    report = parity.compare(Normed(1e-6), *normed(), steps=0)
    assert "epsilon 1e-06 of 1 for PyTorch's 1e-05" in report.notes
    assert "looks like: epsilon" in str(report)
    assert report.first.startswith("1, whose output is")


def test_another_dropout_rate_is_named():
    with pytest.raises(Mismatch, match=r"dropout rate 0\.2 for PyTorch's 0\.1"):
        parity.compare(Normed(rate=0.2), *normed())


def test_dropout_that_one_side_lacks_is_counted():
    with pytest.raises(Mismatch, match="1 times or more, Flax 0 times"):
        parity.compare(Normed(rate=0.0), *normed())


def test_dropout_in_fused_attention_is_refused_by_name():
    encoder = torch.nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    class Fused(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = encoder

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    class Ours(linen.Module):
        @linen.compact
        def __call__(self, x, *, deterministic=True):
            attention = linen.MultiHeadDotProductAttention(2, dropout_rate=0.5)
            return attention(x, deterministic=deterministic)

    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    with pytest.raises(Mismatch, match="scaled_dot_product_attention"):
        parity.compare(Ours(), Fused(), x, x)


def test_a_mask_that_does_not_change_is_found():
    class Stuck(linen.Module):
        @linen.compact
        def __call__(self, x, *, train=False):
            x = linen.Dense(6)(x)
            if train:
                kept = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)
                x = x * kept / 0.9
            return linen.Dense(3)(x)

    module, inputs, labels = normed()
    theirs = torch.nn.Sequential(module[0], module[3], module[4])
    report = parity.compare(Stuck(), theirs, inputs, labels, pairs=some(QUICK))
    failed = [check.what for check in report.checks if not check.passed]
    assert failed == ["masks of two steps, correlation (deviations)"]


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_an_optimizer_with_another_epsilon_is_found(eps):
    adam = parity.Pair(optax.adam(0.01, eps=eps), parity.optimizers()["Adam"].theirs)
    report = parity.compare(Normed(), *normed(), pairs={"Adam": adam}, steps=0)
    assert report.passed == (eps == 1e-8)


def test_parameters_go_from_flax_to_pytorch_for_a_module_and_a_function():
    module, inputs, labels = normed()
    ours = Normed()
    params = ours.init(jax.random.key(1), inputs)

    def apply(params, x, *, train=False, key=None):
        rngs = {} if key is None else {"dropout": key}
        return ours.apply({"params": params}, x, train=train, rngs=rngs)

    options = {"original": "flax", "pairs": some(QUICK), "steps": 2}
    for flax, start in ((ours, params), (apply, params["params"])):
        report = parity.compare(flax, module, inputs, labels, params=start, **options)
        assert report.passed, f"\n{report}"


def test_nnx_dropout_gets_the_same_masks():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(4, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))

    parity.assert_same(Net(nnx.Rngs(0)), *normed(), pairs=some(QUICK), steps=3)
    module, inputs, labels = normed()
    module[2] = torch.nn.Tanh()
    words = r"between out of 1 and into 4, .* runs tanh, .*\n.* relu for PyTorch's tanh"
    with pytest.raises(AssertionError, match=words):
        parity.assert_same(Net(nnx.Rngs(0)), module, inputs, labels)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError):
        parity.compare("net", *normed())


def test_parity_is_imported_without_pytorch():
    code = "import sys, ch4jax.parity; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
