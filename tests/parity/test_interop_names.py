"""Layers find each other by structure, shapes and names, or a mapping is printed."""

import ast
import copy

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.models import lenet, tied

from ch4jax.errors import Mismatch
from ch4jax.interop import from_torch, to_torch

NAMES = ("a", "b", "attn", "mlp", "fc1", "fc2", "norm", "key")
WORDS = st.sampled_from(NAMES)
SIZES = st.integers(1, 2)


def trees(names):
    """Draw modules: layers, by their shapes (in, out), and modules of them."""
    return st.dictionaries(
        names,
        st.recursive(
            st.tuples(SIZES, SIZES),
            lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )


def state_dict(tree, start="", values=None):
    """Return the weights of PyTorch's modules of this tree, all of them different."""
    values = iter(range(1000)) if values is None else values
    found = {}
    for name, inner in tree.items():
        if isinstance(inner, dict):
            found |= state_dict(inner, f"{start}{name}.", values)
        else:
            found[f"{start}{name}.weight"] = np.full(inner[::-1], next(values), "f")
    return found


def like(tree, rename):
    """Return the parameters of Flax's modules of this tree, with other names."""
    return {
        rename(name): {"kernel": np.zeros(inner, "f")}
        if isinstance(inner, tuple)
        else like(inner, rename)
        for name, inner in tree.items()
    }


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(trees(WORDS | st.integers(0, 3).map(str)))
def test_equal_names_are_counterparts_whatever_the_shapes(tree):
    given = state_dict(tree)
    ours = from_torch(
        {f"module._orig_mod.{k}": v for k, v in given.items()}, like(tree, str)
    )
    for path, leaf in jax.tree.leaves_with_path(ours):
        name = ".".join(key.key for key in path[:-1])
        np.testing.assert_array_equal(leaf.T, given[f"{name}.weight"])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(trees(WORDS), st.permutations(range(8)))
def test_other_names_are_paired_or_a_mapping_is_printed_that_works(tree, order):
    numbers = dict(zip(NAMES, order, strict=True))
    given, wanted = state_dict(tree), like(tree, lambda name: f"Our_{numbers[name]}")
    try:
        ours = from_torch(given, wanted)
    except Mismatch as error:
        printed = ast.literal_eval(str(error).rpartition("names=")[2])
        ours = from_torch(given, wanted, names=printed)
    found = sorted(float(kernel[0, 0]) for kernel in jax.tree.leaves(ours))
    assert found == sorted(float(array[0, 0]) for array in given.values())


LAYER = {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}
TOWERS = {name: {"first": LAYER, "second": LAYER} for name in ("Tower_0", "Tower_1")}


def towers(**renamed):
    """Return two towers of equal layers, in a list as PyTorch has it."""
    tower = {"first": torch.nn.Linear(4, 4), "second": torch.nn.Linear(4, 4)}
    tower = {renamed.get(name, name): layer for name, layer in tower.items()}
    two = [torch.nn.ModuleDict(tower), copy.deepcopy(torch.nn.ModuleDict(tower))]
    return torch.nn.ModuleList(two).state_dict()


@pytest.mark.parametrize(
    ("given", "like", "message"),
    [
        (
            towers(second="last"),
            TOWERS,
            "names={'0.last': 'Tower_0/second', '1.last': 'Tower_1/second'}",
        ),
        (
            {f"module.{i}.weight": torch.zeros(4, 4) for i in range(50)},
            {f"layers_{i}": {"kernel": np.zeros((4, 4))} for i in range(49)},
            "module.49.weight (4, 4) has no counterpart",
        ),
        (
            {"a.weight": torch.zeros(4, 4)},
            {"a": LAYER},
            "a/bias (4,) has no counterpart",
        ),
        (
            {"up.weight": torch.zeros(4, 4, 3, 3)},
            {"up": {"kernel": np.zeros((3, 3, 4, 4))}},
            "up fits a Conv and a ConvTranspose: pass PyTorch's module, not its "
            "state_dict",
        ),
    ],
    ids=["two fit", "one too many", "no bias", "no module"],
)
def test_a_message_is_short_and_says_what_to_do(given, like, message):
    with pytest.raises(Mismatch) as error:
        from_torch(given, like)
    assert str(error.value).endswith(message)
    assert len(str(error.value)) < 200


def test_a_square_kernel_of_an_unknown_layer_is_warned_of():
    square = {"weight": torch.zeros(4, 4, 3, 3)}
    with pytest.warns(
        UserWarning, match=r"^a fits a Conv and a ConvTranspose and is t"
    ):
        from_torch(square, {"a": {"kernel": np.zeros((3, 3, 4, 4))}})
    from_torch(
        torch.nn.Conv2d(4, 4, 3, bias=False), {"a": {"kernel": np.zeros((3, 3, 4, 4))}}
    )
    from_torch(square, {"Conv_0": {"kernel": np.zeros((3, 3, 4, 4))}})


def test_rows_after_flattened_images_are_warned_of_and_sizes_are_checked():
    theirs, image = lenet.torch_module(), jax.numpy.ones((1, 1, 24, 24))
    like = jax.eval_shape(lenet.flax_module().init, jax.random.key(0), image)
    with pytest.warns(UserWarning, match=r"^fc1 seems to meet flattened images"):
        from_torch(theirs, like)
    with pytest.raises(Mismatch, match=r"^fc1 is \(24, 128\): \(8, 4\) fits neither"):
        from_torch(theirs, like, flattened={"fc1": (8, 4)})
    with pytest.raises(Mismatch, match=r"^`flattened` has \['fc9'\], but the layers"):
        from_torch(theirs, like, flattened={"fc9": (8, 4, 4)})


def test_tied_names_take_one_value_only():
    theirs = tied.torch_module()
    layers = {"encoder": "embedding", "decoder": "kernel"}
    apart = {name: {leaf: np.zeros((14, 8))} for name, leaf in layers.items()}
    apart["decoder"]["kernel"] = np.zeros((8, 14))
    apart |= {"hidden": {"kernel": np.zeros((8, 8)), "bias": np.zeros(8)}}
    apart |= {"norm": {"scale": np.zeros(8), "bias": np.zeros(8)}}
    ours = from_torch(theirs, apart)
    np.testing.assert_array_equal(
        ours["encoder"]["embedding"], ours["decoder"]["kernel"].T
    )
    back = to_torch(ours, theirs)
    assert back["encoder.weight"] is back["decoder.weight"]
    ours["decoder"]["kernel"] += 1
    with pytest.raises(Mismatch, match=r"^encoder.weight and decoder.weight are one t"):
        to_torch(ours, theirs)
