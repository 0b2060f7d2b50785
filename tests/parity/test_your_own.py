"""Ten models that are not ours, held to PyTorch's, and what the report names."""

import inspect
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from parity.models import NAMES, made, read

from ch4jax import interop, parity
from ch4jax.errors import Mismatch

QUICK = ("SGD, momentum", "AdamW")


def some(names):
    ready = parity.optimizers()
    return {name: ready[name] for name in names}


@pytest.mark.parametrize("name", ["lstm", "autoencoder", "tied", "vae"])
def test_a_model_is_equal_and_no_setting_stays_changed(name):
    arguments, options = made(read(name))
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
    arguments, options = made(read(name))
    report = parity.compare(*arguments, **options)
    assert report.passed, f"\n{report}"


class Stopped(torch.nn.Sequential):
    """Layers of which the first gets no gradient."""

    def forward(self, x):
        first, *others = self
        x = first(x).detach()
        for layer in others:
            x = layer(x)
        return x


def test_a_gradient_that_stops_is_placed_and_its_cause_named():
    module, inputs, labels = normed()
    report = parity.compare(Normed(), Stopped(*module), inputs, labels, steps=0)
    failed = {check.what for check in report.checks if not check.passed}
    assert failed == {"gradients of the parameters", "gradient of the input"}
    assert report.first.startswith("the gradient of 0, ")
    assert report.notes == ("PyTorch runs detach, which no gradient passes",)


class Normed(linen.Module):
    rate: float = 0.1

    @linen.compact
    def __call__(self, x, *, train=False):
        x = linen.LayerNorm(epsilon=1e-5)(linen.Dense(6)(x))
        x = linen.Dropout(self.rate, deterministic=not train)(linen.relu(x))
        return linen.Dense(3)(x)


def normed():
    rng = np.random.default_rng(0)
    module = torch.nn.Sequential(
        *(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.ReLU()),
        *(torch.nn.Dropout(0.1), torch.nn.Linear(6, 3)),
    )
    return module, rng.normal(size=(20, 4)), rng.integers(0, 3, 20)


def test_a_run_of_fewer_steps_than_none_is_refused():
    module, inputs, labels = normed()
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        parity.compare(Normed(), module, inputs, labels, steps=-1)


def test_dropout_that_one_side_lacks_is_counted():
    with pytest.raises(Mismatch, match="1 times or more, Flax 0 times"):
        parity.compare(Normed(rate=0.0), *normed())


@pytest.mark.parametrize(
    ("weights", "broadcast", "message"),
    [
        (True, False, None),
        (True, True, r"one mask \(1, 1, 5, 5\) in Flax .* set broadcast_dropout=False"),
        (False, False, "scaled_dot_product_attention"),
    ],
)
def test_masks_of_attention_are_handed_over_or_refused_by_name(
    weights, broadcast, message
):
    ours = linen.MultiHeadDotProductAttention(
        2, dropout_rate=0.5, broadcast_dropout=broadcast, deterministic=False
    )
    theirs = torch.nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with parity.recorded() as masks:
        outputs, params = ours.init_with_output(keys, jnp.asarray(x))
    theirs.load_state_dict(interop.to_torch(params, theirs))
    with (
        pytest.raises(Mismatch, match=message) if message else nullcontext(),
        parity.replayed_in_torch(masks),
    ):
        expected, _ = theirs(*[torch.tensor(x)] * 3, need_weights=weights)
        assert parity.difference(outputs, expected.detach()) <= 1e-6


class Causal(torch.nn.Module):
    """Classes on the second axis, a pad before a layer, one unused, one a buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = torch.nn.Conv1d(2, 3, 2), torch.nn.PReLU(3)
        self.unused = torch.nn.Linear(2, 2)
        self.register_buffer("bias", torch.ones(1, 1, 6))

    def forward(self, x):
        x = torch.nn.functional.pad(x, (1, 0))
        return self.act(self.conv(x)) * self.bias


class FlaxCausal(nnx.Module):
    def __init__(self, padding):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (2,), padding=[padding], rngs=rngs)
        self.act = nnx.Param(jnp.zeros(3))
        self.unused = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x.swapaxes(1, 2)).swapaxes(1, 2)
        return jnp.where(x > 0, x, self.act[None, :, None] * x)


def test_what_the_sides_write_otherwise_is_no_difference_and_hides_none():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4, 2, 6)), rng.integers(0, 3, (4, 6))
    options = {"names": {"act.weight": "act"}, "steps": 0}
    report = parity.compare(
        FlaxCausal((1, 0)), Causal(), *data, pairs=some(["AdamW"]), **options
    )
    assert report.passed, f"\n{report}"
    assert not report.first
    report = parity.compare(FlaxCausal((0, 1)), Causal(), *data, **options)
    assert report.first.startswith("between the input and into conv")
    assert not any("Flax runs" in note for note in report.notes)
    theirs = Causal()
    back = interop.to_torch(FlaxCausal((1, 0)), theirs, names={"act.weight": "act"})
    assert torch.equal(back["bias"], theirs.bias)


def test_the_layer_and_the_cause_are_named_for_a_function():
    def apply(params, x):
        h = x @ params["0"]["kernel"] + params["0"]["bias"][None]
        h = jax.nn.gelu(h) @ params["2"]["kernel"] + params["2"]["bias"][None]
        h = h - h.mean(-1, keepdims=True)
        return h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-5)

    def layer(*shape):
        return {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])}

    theirs = torch.nn.Sequential(
        *(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 3)),
        torch.nn.LayerNorm(3, elementwise_affine=False),
    )
    x, y = np.random.default_rng(0).normal(size=(2, 5, 4))
    params = {"0": layer(4, 6), "2": layer(6, 3)}
    report = parity.compare(apply, theirs, x, y[:, :3], params=params)
    assert report.first.startswith("1, whose output is ")
    assert report.notes[0].startswith("approximate='tanh' of gelu for PyTorch's")
    theirs[1], theirs[3].eps = torch.nn.GELU("tanh"), 1e-3
    report = parity.compare(apply, theirs, x, y[:, :3], params=params)
    assert report.first.startswith("3, whose output is ")
    assert report.notes[0].startswith("eps=1e-05 of layer_norm for PyTorch's")


def test_float32_in_either_side_is_named():
    class Half(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x.float().double())

    def apply(params, x):
        kernel = params["kernel"].astype("float32").astype(x.dtype)
        return x @ kernel + params["bias"][None]

    x, y = np.random.default_rng(0).normal(size=(2, 5, 4))
    params = {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}
    notes = parity.compare(apply, Half(4, 4), x, y, params=params).notes
    assert notes[-2].startswith("Flax computes in float32 or less")
    assert notes[-1] == "PyTorch computes in float32 or less from float on"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 1e-8}, None),
        ({"eps": 1e-3}, "epsilon 0.001 for PyTorch's 1e-08"),
        ({"eps": 0.0, "eps_root": 1e-8}, "epsilon inside of the root"),
    ],
)
def test_an_optimizer_with_another_epsilon_is_named(settings, words):
    theirs = parity.optimizers()["Adam"].theirs
    pairs = {"Adam": parity.Pair(optax.adam(0.01, **settings), theirs)}
    report = parity.compare(Normed(), *normed(), pairs=pairs, steps=0)
    assert report.passed == (words is None)
    assert report.notes == ((f"Adam: {words}",) if words else ())


def test_dropout_in_evaluation_is_placed_there():
    module, inputs, labels = normed()
    module[3].eval = lambda: module[3]  # it never stops
    module[3].train = lambda mode=True: module[3]
    report = parity.compare(Normed(), module, inputs, labels, steps=0)
    assert report.first.startswith("in evaluation, between out of 1 and into 4")
    assert "no dropout (with that, PyTorch agrees)" in report.notes


def test_another_smoothing_of_the_labels_is_named():
    def smoothed(logits, labels):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.1)
        return optax.softmax_cross_entropy(logits, targets).mean()

    losses = smoothed, torch.nn.functional.cross_entropy
    report = parity.compare(Normed(), *normed(), losses=losses, steps=0)
    assert "out of the loss" in report.first
    assert report.notes[0].startswith("label_smoothing=0.1 of cross_entropy for ")


def test_masks_that_keep_too_much_are_found():
    rng = np.random.default_rng(0)
    masks = [[parity.Mask(rng.uniform(size=(50, 8)) > 0.2, 0.2)] for _ in range(4)]
    assert all(check.passed for check in parity.mask_checks(masks))
    wrong = [[mask._replace(rate=0.3)] for (mask,) in masks]
    found = [check.what for check in parity.mask_checks(wrong) if not check.passed]
    assert found == ["fraction kept by the masks"]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theirs": torch.nn.Linear}, "a module of PyTorch, got <class"),
        ({"inputs": {"x": np.ones((20, 4))}}, "arrays as inputs, got dict"),
        ({"params": {"Dense_0": {}}}, r"with `params`, got \['Dense_0'\]"),
        ({"original": "flax"}, "needs `params`"),
        ({"original": "Flax"}, "must be 'torch' or 'flax', got 'Flax'"),
    ],
)
def test_what_a_call_gets_wrong_is_said(changes, message):
    rest = zip(("theirs", "inputs", "labels"), normed(), strict=True)
    arguments = {"ours": Normed(), **dict(rest), **changes}
    compare = inspect.unwrap(parity.compare)  # without the types that tests check
    with pytest.raises((TypeError, ValueError), match=message):
        compare(**arguments)


class Pooled(linen.Module):
    """It has no parameters, and has to be told whether it trains."""

    @linen.compact
    def __call__(self, x, is_training):
        return linen.relu(x).mean(1)


def test_a_module_without_parameters_is_compared_on_level_1():
    theirs = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool1d(1))
    x = np.random.default_rng(0).normal(size=(5, 4))
    report = parity.compare(Pooled(), Squeezed(*theirs), x, x[:, 0])
    assert report.passed
    assert {check.level for check in report.checks} == {1}
    report = parity.compare(Pooled(), Squeezed(theirs[1]), x, x[:, 0])
    assert report.first.startswith("between the input and out of the whole module")


class Squeezed(torch.nn.Sequential):
    """Layers of which the last returns one number a row."""

    def forward(self, x):
        return super().forward(x).squeeze(1)


class Experts(torch.nn.Module):
    """Rows that go to one of two experts, in PyTorch alone."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(4, 2)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 3) for _ in range(2))

    def forward(self, x):
        weights, out = self.gate(x).softmax(-1), x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            rows = torch.where(weights.argmax(-1) == i)
            out[rows] += weights[rows][:, i, None] * torch.tanh(expert(x[rows]))
        return out


class FlaxExperts(linen.Module):
    shift: float = 0.0

    @linen.compact
    def __call__(self, x):
        weights = jax.nn.softmax(linen.Dense(2, name="gate")(x))
        kept = weights * jax.nn.one_hot(weights.argmax(-1), 2, dtype=x.dtype)
        experts = [linen.Dense(3, name=f"experts_{i}") for i in range(2)]
        outputs = [jnp.tanh(expert(x + self.shift)) for expert in experts]
        return sum(kept[:, i, None] * out for i, out in enumerate(outputs))


def test_rows_that_pytorch_sends_to_an_expert_are_found_among_all():
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(10, 4))
    report = parity.compare(FlaxExperts(), Experts(), x, x[:, :3], steps=0)
    assert report.passed
    assert not report.first
    report = parity.compare(FlaxExperts(0.1), Experts(), x, x[:, :3], steps=0)
    assert report.first.startswith("between out of gate and into experts.0, ")
    assert "inf" not in report.first


def test_frozen_parameters_are_named():
    module, inputs, labels = normed()
    module[0].requires_grad_(False)
    report = parity.compare(Normed(), module, inputs, labels, steps=0)
    assert report.first.startswith("the gradient of 0, ")
    words = "frozen in PyTorch (requires_grad=False): 0.weight, 0.bias"
    assert report.notes == (words,)


class Skip(torch.nn.Module):
    """Its skip runs first, and its strides leave nothing to pad."""

    def __init__(self):
        super().__init__()
        self.skip = torch.nn.Conv1d(2, 3, 1, stride=2)
        self.conv = torch.nn.Conv1d(2, 3, 3, stride=2, padding=1)

    def forward(self, x):
        skip = self.skip(x)
        return torch.relu(skip + torch.tanh(self.conv(x)))


class FlaxSkip(linen.Module):
    scale: float = 1.0

    @linen.compact
    def __call__(self, x):
        x = self.scale * x.swapaxes(1, 2)
        y = jnp.tanh(linen.Conv(3, 3, 2, padding=1, name="conv")(x))
        skip = linen.Conv(3, 1, 2, name="skip")(x)
        return (linen.relu(y) + skip).swapaxes(1, 2)


@pytest.mark.parametrize(("scale", "words"), [(1.0, "Flax runs"), (2.0, "SAME")])
def test_an_order_and_a_padding_that_change_nothing_are_no_cause(scale, words):
    x = np.random.default_rng(0).normal(size=(3, 2, 8))
    report = parity.compare(FlaxSkip(scale), Skip(), x, x[:, [0, 1, 1], :4], steps=0)
    assert not report.passed
    assert not any(words in note for note in report.notes)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError):
        parity.compare("net", *normed())
