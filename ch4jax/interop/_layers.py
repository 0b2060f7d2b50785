"""The layers of Flax as PyTorch has them: names, layouts, and what is packed.

A form lists the tensors that PyTorch has for a layer of Flax. A tensor is made of
pieces, one after the other along its first axis, and a piece is a view of a leaf:
reading through it gives PyTorch's layout, writing through it fills the leaf, so one
rule serves both directions. A piece that is in two tensors is their sum.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ch4jax.errors import Mismatch

Keys = tuple[str, ...]
Shape = tuple[int, ...]
View = Callable[[np.ndarray], np.ndarray]
Signature = tuple[str, frozenset[tuple[str, Shape]]]

_ALIASES = {
    "weight": ("kernel", "w", "scale", "gamma", "embedding", "negative_slope"),
    "bias": ("b", "beta"),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_CANONICAL |= {name: name for name in _ALIASES}
_RECURRENT = re.compile(r"((?:weight|bias)_(?:ih|hh))(?:_(l\d+(?:_reverse)?))?")
ATTENTION = re.compile(r"in_proj_(weight|bias)|[qkv]_proj_weight")
# The gates in PyTorch's order, in weight_ih, weight_hh, bias_ih and bias_hh.
_CELLS = (
    ("ii if ig io", "hi hf hg ho", "hi hf hg ho", "hi hf hg ho"),  # LSTM
    ("ii if_ ig io", "hi hf hg ho", "hi hf hg ho", "hi hf hg ho"),  # NNX's LSTM
    ("ir iz in", "hr hz hn", "ir iz in", "ir iz hn"),  # GRU
    ("i", "h", "i", "i"),  # a simple cell
    ("dense_i", "dense_h", "dense_h", "dense_h"),  # NNX's optimized LSTM
    ("dense_i", "dense_h", "dense_i", "dense_i"),  # NNX's simple cell and its GRU
)
_PROJECTION = re.compile(
    r"(?:w_?|to_)?(q|query|k|key|v|value|o|out|output)(?:_(?:proj|lin|linear))?"
)
_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "out"}
_TRANSPOSED = re.compile(r"transpos|deconv|(?<![a-z])up", re.I)


class Piece(NamedTuple):
    """A part of a tensor.

    Attributes:
      leaf: path of the leaf; empty if Flax lacks it, so that it has to be zero.
      shape: of the part.
      view: from the leaf to a writable view with its entries in PyTorch's order.
    """

    leaf: Keys
    shape: Shape
    view: View


class Form(NamedTuple):
    """How PyTorch has a layer.

    Attributes:
      tensors: the pieces of each tensor, by PyTorch's name of it.
      kind: `Conv`, `ConvTranspose` or `Embedding`, if it is one.
    """

    tensors: dict[str, tuple[Piece, ...]]
    kind: str = ""

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each tensor."""
        return {name: _total(pieces) for name, pieces in self.tensors.items()}

    @property
    def pieces(self) -> list[Piece]:
        """Those of every tensor."""
        return [piece for pieces in self.tensors.values() for piece in pieces]


def signature(shapes: Mapping[str, Shape], kind: str = "") -> Signature:
    """Return what a layer of each side has in common with its counterpart."""
    return kind, frozenset(shapes.items())


def canonical(keys: Keys) -> tuple[Keys, str]:
    """Return the layer of a leaf or a tensor, and PyTorch's name for the latter there.

    What no layer is known to have, such as `cls_token`, is a layer of its own.
    """
    *path, name = keys
    if match := _RECURRENT.fullmatch(name):
        return (*path, *filter(None, [match[2]])), match[1]
    if name in _CANONICAL or ATTENTION.fullmatch(name):
        return tuple(path), _CANONICAL.get(name, name)
    return keys, "value"


def forms_of(
    shapes: Mapping[Keys, Shape],
    theirs: Mapping[Keys, Signature],
    kinds: Mapping[Keys, tuple[str, bool | None]],
) -> dict[Keys, tuple[Form, Signature]]:
    """Return how PyTorch has each of our layers, by path.

    Where several forms are possible, as for a kernel of three axes, PyTorch's layers
    decide, first the one of the same path.

    Args:
      shapes: of our leaves, by path.
      theirs: PyTorch's layers, by path.
      kinds: of our layers, where they are known: `Conv` or `ConvTranspose`, and
        whether the latter has `transpose_kernel`.

    Raises:
      Mismatch: if a layer fits a convolution and a transposed one.
    """
    wanted, by_name = set(theirs.values()), {plain(p): s for p, s in theirs.items()}
    nodes: dict[Keys, dict[str, Keys]] = {}
    for keys in shapes:
        path, _ = canonical(keys)
        nodes.setdefault(path, {})[keys[-1] if path == keys[:-1] else "value"] = keys

    def signed(form: Form) -> Signature:
        exact = signature(form.shapes, form.kind)
        return exact if exact in wanted else signature(form.shapes)

    forms: dict[Keys, tuple[Form, Signature]] = {}
    parents: dict[Keys, dict[str, dict[str, Keys]]] = {}
    for path, names in nodes.items():
        if path:
            parents.setdefault(path[:-1], {})[path[-1]] = names
    for above, children in parents.items():
        for form in _composites(children, shapes):
            if signed(form) in wanted:
                forms[above] = form, signed(form)
                for name in children:
                    del nodes[(*above, name)]
                break
    doubtful: list[str] = []
    for path, names in nodes.items():
        options = [
            {below: (form, signed(form)) for below, form in option.items()}
            for option in _options(names, shapes, *kinds.get(path, ("", None)))
        ]
        fitting = [o for o in options if all(s in wanted for _, s in o.values())]
        same = by_name.get(plain(path))
        transposed = _TRANSPOSED.search("/".join(path)) is not None

        def rank(option: Mapping[Keys, tuple[Form, Signature]]) -> tuple[bool, bool]:
            """Sort by name, then by what the name says, then by what is likely."""
            kinds = [form.kind for form, _ in option.values()]
            signs = [sign for _, sign in option.values()]
            return same not in signs, transposed and "Conv" in kinds  # noqa: B023

        chosen = min(fitting or options, key=rank)
        sign = [s for _, s in chosen.values()]
        equal = [o for o in fitting if [s for _, s in o.values()] == sign]
        views = {p.view for o in equal for f, _ in o.values() for p in f.pieces}
        if {_conv, _conv_transpose} <= views and any(not kind for kind, _ in sign):
            line = f"{'/'.join(path)} fits a Conv and a ConvTranspose"
            if transposed:
                raise Mismatch(f"{line}: pass PyTorch's module, not its state_dict")
            doubtful.append(f"{line} and is taken for a Conv")
        forms |= {(*path, *below): chosen[below] for below in chosen}
    if doubtful:
        more = f", and so are {len(doubtful) - 1} more" if doubtful[1:] else ""
        warnings.warn(
            f"{doubtful[0]}{more}; pass PyTorch's module, not its state_dict",
            stacklevel=5,
        )
    return forms


def plain(path: Keys) -> str:
    """Return a path as Flax has it: `layers.0` as `layers_0`, `q_proj` as `query`."""
    *above, name = (part.lower() for part in path or ("",))
    if match := _PROJECTION.fullmatch(name):
        name = _PROJECTIONS[match[1][0]]
    return "_".join((*above, name))


def flatten_images(form: Form, sizes: Shape, side: int) -> Form:
    """Return the form of a layer before or after which images are flattened.

    Args:
      form: of a layer whose weight has two axes.
      sizes: PyTorch's (channels, *space); Flax has (*space, channels).
      side: 1 for what the layer takes, 0 for what it returns.
    """

    def moved(piece: Piece) -> Piece:
        def view(leaf: np.ndarray) -> np.ndarray:
            entries, axis = piece.view(leaf), side if len(piece.shape) > 1 else 0
            before, after = piece.shape[:axis], piece.shape[axis + 1 :]
            split = entries.reshape(*before, *sizes[1:], sizes[0], *after)
            return np.moveaxis(split, axis + len(sizes) - 1, axis)

        return piece._replace(view=view)

    names = ("weight",) if side else ("weight", "bias")
    return form._replace(
        tensors={
            name: tuple(map(moved, pieces)) if name in names else pieces
            for name, pieces in form.tensors.items()
        }
    )


def _total(pieces: tuple[Piece, ...]) -> Shape:
    first = pieces[0].shape
    return (sum(p.shape[0] for p in pieces), *first[1:]) if pieces[1:] else first


def _piece(keys: Keys, shapes: Mapping[Keys, Shape], view: View) -> Piece:
    return Piece(keys, view(np.broadcast_to(np.int8(0), shapes[keys])).shape, view)


def _exactly(leaf: np.ndarray) -> np.ndarray:
    return leaf


def _flat(leaf: np.ndarray) -> np.ndarray:
    return leaf.reshape(-1)


def _conv(kernel: np.ndarray) -> np.ndarray:
    """From (*space, in, out) to (out, in, *space)."""
    last = kernel.ndim - 1
    return kernel.transpose(last, last - 1, *range(last - 1))


def _conv_transpose(kernel: np.ndarray) -> np.ndarray:
    """From (*space, in, out) to (in, out, *space); Flax does not flip the space."""
    return np.flip(_conv(kernel).swapaxes(0, 1), tuple(range(2, kernel.ndim)))


def _to_heads(kernel: np.ndarray) -> np.ndarray:
    """From (in, heads, size) to (heads * size, in)."""
    size, *heads = kernel.shape
    return kernel.reshape(size, heads[0] * heads[1]).T


def _from_heads(kernel: np.ndarray) -> np.ndarray:
    """From (heads, size, out) to (out, heads * size)."""
    *heads, size = kernel.shape
    return kernel.reshape(heads[0] * heads[1], size).T


def _layer(layer: int) -> View:
    return lambda leaf: leaf[layer].T


def _options(
    names: Mapping[str, Keys],
    shapes: Mapping[Keys, Shape],
    kind: str,
    transposed_kernel: bool | None,
) -> Iterable[dict[Keys, Form]]:
    """Yield the forms of a layer, or of the layers stacked in it, the likeliest first.

    Args:
      names: paths of its leaves by their last keys.
      shapes: of the leaves, by path.
      kind: see `forms_of`; empty if it is unknown.
      transposed_kernel: see `forms_of`.
    """
    kernel = next((name for name in ("kernel", "w") if name in names), None)
    axes = len(shapes[names[kernel]]) if kernel else 0
    options: list[tuple[str, View]] = [("", np.transpose)]
    if axes == 1:
        options = [("", np.atleast_2d)]
    elif axes > 2:
        options = [("Conv", _conv)]
        options += [("ConvTranspose", _conv_transpose), ("ConvTranspose", _conv)]
        options = [o for o in options if kind in ("", o[0])]
        if transposed_kernel is not None:
            options = options[-1:] if transposed_kernel else options[:-1] or options
    if axes == 3 and not kind:
        options += [("", _to_heads), ("", _from_heads)]
    for name_of_kind, view in options:
        tensors: dict[str, tuple[Piece, ...]] = {}
        for name, keys in names.items():
            other = _flat if kernel or name == "negative_slope" else _exactly
            piece = _piece(keys, shapes, view if name == kernel else other)
            tensors[_CANONICAL.get(name, name)] = (piece,)
        if "embedding" in names:
            name_of_kind = "Embedding"
        yield {(): Form(tensors, name_of_kind)}
    if axes != 3 or not names.keys() <= {"kernel", "bias"}:
        return
    layers, _, width = shapes[names["kernel"]]
    if "bias" not in names or shapes[names["bias"]] == (layers, width):
        yield {
            (str(layer),): Form(
                {
                    _CANONICAL[name]: (_piece(keys, shapes, _layer(layer)),)
                    for name, keys in names.items()
                }
            )
            for layer in range(layers)
        }


def _gru_biases(keys: Keys, size: int) -> dict[str, tuple[Piece, ...]]:
    """Return the biases of NNX's GRU, which lacks that of the new state's product."""
    gates = Piece(keys, (2 * size,), lambda bias: bias[: 2 * size])
    new = Piece(keys, (size,), lambda bias: bias[2 * size :])
    return {"bias_ih": (gates, new), "bias_hh": (gates, Piece((), (size,), _exactly))}


def _composites(
    children: Mapping[str, Mapping[str, Keys]], shapes: Mapping[Keys, Shape]
) -> Iterable[Form]:
    """Yield the forms in which PyTorch has several of our layers as one."""

    def pieces(layers: str | Iterable[str], name: str, view: View) -> tuple[Piece, ...]:
        every = [children.get(layer, {}).get(name) for layer in layers]
        if not all(every):
            return ()
        return tuple(_piece(keys, shapes, view) for keys in every if keys)

    tensors: dict[str, tuple[Piece, ...]]
    for cell in _CELLS:
        ih, hh, bias_ih, bias_hh = (gates.split() for gates in cell)
        if {*ih, *hh} == set(children):
            tensors = {
                "weight_ih": pieces(ih, "kernel", np.transpose),
                "weight_hh": pieces(hh, "kernel", np.transpose),
                "bias_ih": pieces(bias_ih, "bias", _exactly),
                "bias_hh": pieces(bias_hh, "bias", _exactly),
            }
            if not all(tensors.values()):
                continue
            width, size = tensors["weight_hh"][0].shape
            if bias_ih == ["dense_i"] and width == 3 * size:
                tensors |= _gru_biases(children["dense_i"]["bias"], size)
            yield Form(tensors)
    if {"query", "key", "value", "out"} == set(children):
        three = ("query", "key", "value")
        weights = pieces(three, "kernel", _to_heads)
        shared = {
            "in_proj_bias": pieces(three, "bias", _flat),
            "out_proj.weight": pieces(["out"], "kernel", _from_heads),
            "out_proj.bias": pieces(["out"], "bias", _exactly),
        }
        apart = zip(("q", "k", "v"), weights, strict=False)
        for packed in (
            {"in_proj_weight": weights},
            {f"{letter}_proj_weight": (weight,) for letter, weight in apart},
        ):
            yield Form(
                {name: parts for name, parts in (packed | shared).items() if parts}
            )
