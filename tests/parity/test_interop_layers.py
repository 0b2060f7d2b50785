"""Every layer that `interop` knows: equal outputs, and every bit back, both ways."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity.models import NAMES, made, read
from support import relative_difference

from ch4jax.interop import from_torch, to_torch
from ch4jax.parity import difference

RNGS = nnx.Rngs(0)
COUNTS = st.integers(1, 3)


class Case(NamedTuple):
    """A layer on each side, and what it takes.

    Attributes:
      theirs: PyTorch's.
      flax: Linen's and NNX's; the latter is absent where NNX computes in float32.
      inputs: in PyTorch's layout.
      images: whether the channels are second there, and last in Flax.
      call: what of PyTorch's module to compare.
    """

    theirs: torch.nn.Module
    flax: tuple[Any, ...]
    inputs: tuple[torch.Tensor, ...]
    images: bool = False
    call: Callable[..., torch.Tensor] = lambda theirs, *inputs: theirs(*inputs)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def both(name, *sizes, **settings):
    """Return a layer of Linen, which finds the first size by itself, and NNX's."""
    native = getattr(nnx, {"Dense": "Linear"}.get(name, name))
    sizes_of_linen = sizes if name == "Embed" else sizes[1:]
    return (
        getattr(linen, name)(*sizes_of_linen, **settings),
        native(*sizes, **settings, rngs=RNGS),
    )


def dense(draw):
    n, m, bias = draw(COUNTS), draw(COUNTS), draw(st.booleans())
    ours = both("Dense", n, m, use_bias=bias)
    return Case(torch.nn.Linear(n, m, bias), ours, (randn(4, n),))


def conv(draw):
    axes, groups, bias = draw(COUNTS), draw(COUNTS), draw(st.booleans())
    n, m = groups * draw(COUNTS), groups * draw(COUNTS)
    size, stride, padding, dilation = (
        draw(st.tuples(*[st.integers(low, 3)] * axes)) for low in (1, 1, 0, 1)
    )
    theirs = getattr(torch.nn, f"Conv{axes}d")(
        n, m, size, stride, padding, dilation, groups, bias
    )
    settings = {
        "strides": stride,
        "padding": [(p, p) for p in padding],
        "kernel_dilation": dilation,
        "feature_group_count": groups,
        "use_bias": bias,
    }
    ours = both("Conv", n, m, size, **settings)
    return Case(theirs, ours, (randn(2, n, *[8] * axes),), images=True)


def conv_transpose(draw):
    axes, n, m, bias = draw(COUNTS), draw(COUNTS), draw(COUNTS), draw(st.booleans())
    size, stride, dilation = (
        draw(st.tuples(*[st.integers(1, 3)] * axes)) for _ in range(3)
    )
    padding = draw(st.integers(0, 1))
    theirs = getattr(torch.nn, f"ConvTranspose{axes}d")(
        n, m, size, stride, padding, bias=bias, dilation=dilation
    )
    pads = [d * (k - 1) - padding for d, k in zip(dilation, size, strict=True)]
    settings = {
        "strides": stride,
        "padding": [(p, p) for p in pads],
        "kernel_dilation": dilation,
        "use_bias": bias,
    }
    ours, _ = both("ConvTranspose", n, m, size, **settings)
    settings["transpose_kernel"] = draw(st.booleans())
    native = nnx.ConvTranspose(n, m, size, **settings, rngs=RNGS)
    return Case(theirs, (ours, native), (randn(2, n, *[6] * axes),), images=True)


def batch_norm(draw):
    n, axes, affine = draw(COUNTS), draw(st.integers(1, 3)), draw(st.booleans())
    theirs = getattr(torch.nn, f"BatchNorm{axes}d")(n, affine=affine)
    torch.nn.init.uniform_(theirs.running_mean)
    torch.nn.init.uniform_(theirs.running_var, 0.5, 1.5)
    theirs.num_batches_tracked += 1
    flags = {"use_bias": affine, "use_scale": affine, "use_running_average": True}
    ours = both("BatchNorm", n, **flags)
    return Case(theirs, ours, (randn(4, n, *[3] * axes),), images=True)


def layer_norm(draw):
    n, bias = draw(COUNTS) + 1, draw(st.booleans())
    ours = both("LayerNorm", n, epsilon=1e-5, use_bias=bias)
    return Case(torch.nn.LayerNorm(n, bias=bias), ours, (randn(4, n),))


def group_norm(draw):
    groups = draw(COUNTS)
    n = groups * draw(COUNTS)
    ours = both("GroupNorm", n, num_groups=groups, epsilon=1e-5)
    return Case(torch.nn.GroupNorm(groups, n), ours, (randn(4, n, 5),), images=True)


def rms_norm(draw):
    n = draw(COUNTS)
    return Case(torch.nn.RMSNorm(n, eps=1e-6), both("RMSNorm", n), (randn(4, n),))


def embedding(draw):
    n, m = draw(COUNTS), draw(COUNTS)
    return Case(torch.nn.Embedding(n, m), both("Embed", n, m), (torch.arange(n),))


def attention(draw):
    heads, bias = draw(COUNTS), draw(st.booleans())
    width, keys = heads * draw(COUNTS), draw(COUNTS)
    apart = draw(st.booleans())
    keys = keys if apart else width
    theirs = torch.nn.MultiheadAttention(
        width, heads, bias=bias, kdim=keys, vdim=keys, batch_first=True
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    native = nnx.MultiHeadAttention(
        heads,
        width,
        in_kv_features=keys,
        use_bias=bias,
        decode=False,
        rngs=RNGS,
        attention_fn=lambda q, k, v, **_: linen.dot_product_attention(q, k, v),
    )
    return Case(
        theirs,
        (linen.MultiHeadDotProductAttention(heads, use_bias=bias), native),
        (randn(2, 4, width), *[randn(2, 5, keys)] * 2),
        call=lambda theirs, *inputs: theirs(*inputs)[0],
    )


def recurrent(theirs, cells):
    def layer(draw):
        n, m = draw(COUNTS), draw(COUNTS)
        module = theirs(n, m, batch_first=True)
        if theirs is torch.nn.GRU:  # NNX's has no bias there
            torch.nn.init.zeros_(module.bias_hh_l0.data[2 * m :])
        flax = []
        for cell in cells:
            if issubclass(cell, linen.Module):
                flax.append(linen.RNN(cell(m, param_dtype=float)))
            else:
                native = cell(n, m, dtype=float, param_dtype=float, rngs=RNGS)
                flax.append(nnx.RNN(native, rngs=RNGS))
        return Case(
            module,
            tuple(flax),
            (randn(2, 4, n),),
            call=lambda theirs, x: theirs(x)[0],
        )

    return layer


LAYERS = {
    "Dense": dense,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNorm": batch_norm,
    "LayerNorm": layer_norm,
    "GroupNorm": group_norm,
    "RMSNorm": rms_norm,
    "Embedding": embedding,
    "MultiHeadAttention": attention,
    "LSTM": recurrent(
        torch.nn.LSTM,
        (linen.LSTMCell, linen.OptimizedLSTMCell, nnx.LSTMCell, nnx.OptimizedLSTMCell),
    ),
    "GRU": recurrent(torch.nn.GRU, (linen.GRUCell, nnx.GRUCell)),
    "RNN": recurrent(torch.nn.RNN, (linen.SimpleCell, nnx.SimpleCell)),
    "PReLU": lambda _: Case(
        torch.nn.PReLU(), (linen.PReLU(), nnx.PReLU()), (randn(5),)
    ),
}


def bits(tree):
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Not(nnx.RngState))
    return [(a.dtype, a.shape, np.asarray(a).tobytes()) for a in jax.tree.leaves(tree)]


def tensor_bits(state_dict):
    return {
        name: (t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist())
        for name, t in state_dict.items()
    }


def carried(theirs, flax, inputs, **options):
    """Return the layer of Flax with the values of PyTorch's, and its outputs."""
    if isinstance(flax, linen.Module):
        like = jax.eval_shape(flax.init, jax.random.key(0), *inputs)
        ours = from_torch(theirs, like, **options)
        return ours, flax.apply(ours, *inputs)
    flax.eval()
    ours = from_torch(theirs, flax, **options)
    return ours, ours(*inputs)


@pytest.mark.parametrize("name", LAYERS)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
)
@given(data=st.data())
def test_outputs_are_equal_and_every_bit_comes_back(name, data):
    torch.manual_seed(0)
    case = LAYERS[name](data.draw)
    theirs = case.theirs.double().eval()
    last = (lambda x: jnp.moveaxis(x, 1, -1)) if case.images else lambda x: x
    with jax.enable_x64(True):
        inputs = [last(jnp.asarray(x.numpy())) for x in case.inputs]
        expected = last(jnp.asarray(case.call(theirs, *case.inputs).detach().numpy()))
        for flax in case.flax:
            ours, outputs = carried(theirs, flax, inputs)
            assert relative_difference(outputs, expected) <= 1e-12
            back = to_torch(ours, theirs)
            if "bias_ih_l0" not in back:  # of which only the sum comes back
                assert tensor_bits(back) == tensor_bits(theirs.state_dict())
            other = copy.deepcopy(theirs)
            other.load_state_dict(back)
            assert bits(from_torch(other, ours)) == bits(ours)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_a_whole_model_are_equal_and_every_bit_comes_back(name, x64):
    (ours, theirs, inputs, _), options = made(read(name))
    del options["losses"]
    theirs.double().eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5)
    with torch.no_grad():
        expected = theirs(*map(torch.tensor, inputs))
    ours, outputs = carried(theirs, ours, [*map(jnp.asarray, inputs)], **options)
    assert difference(outputs, expected) <= 1e-12
    back = to_torch(ours, theirs, **options)
    assert tensor_bits(back) == tensor_bits(theirs.state_dict())
