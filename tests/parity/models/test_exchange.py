"""Parameters go over for ten models that are not ours, and outputs are equal."""

import importlib

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import linen
from support import relative_difference

from ch4jax.interop import from_torch, to_torch

NAMES = (
    *("lenet", "resnet", "encoder", "decoder", "lstm"),
    *("autoencoder", "tied", "unet", "mixer", "vae"),
)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_equal_and_every_bit_comes_back(name, x64):
    model = importlib.import_module(f"parity.models.{name}")
    torch.manual_seed(0)
    theirs = model.torch_module().double().eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    inputs, _ = model.example(0)
    ours = model.flax_module()
    if isinstance(ours, linen.Module):
        shapes = jax.eval_shape(ours.init, jax.random.key(0), *map(jnp.asarray, inputs))
        params = from_torch(theirs, shapes, **model.OPTIONS)
        outputs = ours.apply(params, *map(jnp.asarray, inputs))
    else:
        ours.eval()
        params = from_torch(theirs, ours, **model.OPTIONS)
        outputs = params(*map(jnp.asarray, inputs))
    with torch.no_grad():
        expected = theirs(*map(torch.tensor, inputs))
    for a, b in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
        assert relative_difference(a, b) <= 1e-12
    back = to_torch(params, theirs, **model.OPTIONS)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back[key], tensor)
