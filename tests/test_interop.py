"""Linen to NNX and back, and what happens without PyTorch."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx
from support import leaves, relative_difference
from test_modules import EXAMPLES, apply, every_module, has_dropout, inputs, variables

from ch4jax import interop
from ch4jax.blocks import MLP, FixedHiddenMLP


@every_module
def test_every_module_computes_the_same_in_nnx_and_comes_back_exactly(example):
    drawn, x = variables(example), inputs(example)
    net = interop.linen_to_nnx(example.module, drawn)
    mode = {"train": False} if has_dropout(example.module) else {}
    assert relative_difference(net(x, **mode), apply(example.module, drawn, x)) <= 1e-6
    back = interop.nnx_to_linen(net)
    assert jax.tree.structure(back) == jax.tree.structure(drawn)
    for leaf, old in leaves(back, drawn):
        assert leaf.dtype == old.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(old).tobytes()


def test_nnx_trains_the_parameters_and_leaves_constants_alone():
    example = EXAMPLES[FixedHiddenMLP]
    net = interop.linen_to_nnx(example.module, variables(example))
    trained = nnx.to_flat_state(nnx.state(net, nnx.Param))
    assert {path for path, _ in trained} == {("linear", "bias"), ("linear", "kernel")}


class NativeMLP(nnx.Module):
    """The perceptron as an NNX user writes it."""

    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(20, 256, rngs=rngs)
        self.out = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def test_a_native_nnx_module_takes_the_parameters_of_linen_by_name():
    example = EXAMPLES[MLP]
    drawn, x = variables(example), inputs(example)
    net = nnx.eval_shape(lambda: NativeMLP(rngs=nnx.Rngs(0)))
    nnx.update(net, drawn["params"])
    assert relative_difference(net(x), apply(example.module, drawn, x)) <= 1e-6
    jax.tree.map(np.testing.assert_array_equal, interop.nnx_to_linen(net), drawn)


class WithLists(nnx.Module):
    """Layers in lists of lists, and one of them twice."""

    def __init__(self):
        def layer():
            return nnx.Linear(2, 2, rngs=nnx.Rngs(0))

        self.layers = nnx.List([layer(), nnx.List([layer()])])
        self.again = self.layers[0]


def test_lists_have_linens_names_and_a_shared_layer_each_of_its_own():
    params = interop.nnx_to_linen(WithLists())["params"]
    assert set(params) == {"layers_0", "layers_1_0", "again"}
    assert params["again"]["kernel"] is params["layers_0"]["kernel"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: interop.to_torch({}, {}),
        lambda: interop.load_torch(__file__),
        lambda: interop.save_torch("net.pt", {}),
    ],
)
def test_without_pytorch_the_error_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "ch4jax\[torch\]"'):
        call()
