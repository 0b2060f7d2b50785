"""Causes by trial: change an operation of PyTorch, and see if the difference goes.

An operation that runs between the last place that agrees and the first that does not is
replaced by what a port may have made of it: another setting, axis or order, or none.
"""

import inspect
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jaxtyping import PyTree

from ch4jax.errors import Mismatch
from ch4jax.interop import import_torch
from ch4jax.interop._torch import is_tensor

if TYPE_CHECKING:
    import torch

Change = Callable[..., Any]  # what runs in place of an operation
MOST_TRIALS, MOST_NAMED, MOST_SHOWN = 600, 3, 12
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)
_EITHER = True, False
# What a setting may be instead, by its name, whatever the operation; `dim` is any axis.
_SETTINGS: Mapping[str, Sequence[Any]] = {
    "eps": EPSILONS,
    "approximate": ("none", "tanh"),
    **dict.fromkeys(("align_corners", "antialias", "ceil_mode"), _EITHER),
    **dict.fromkeys(("count_include_pad", "is_causal", "training"), _EITHER),
    **dict.fromkeys(("bias", "attn_mask", "key_padding_mask"), (None,)),
    "mode": ("nearest", "nearest-exact", "bilinear", "bicubic"),
    "scale": (1.0,),
    "label_smoothing": (0.0, 0.05, 0.1, 0.2),
    "reduction": ("mean", "sum"),
    "correction": (0, 1),
    "unbiased": _EITHER,
    "diagonal": (-1, 0, 1),
    "k": (1, 2, 4, 8),
    "negative_slope": (0.01, 0.1, 0.2, 0.3),
    **dict.fromkeys(("num_groups", "num_heads"), (1, 2, 3, 4, 8, 16, 32)),
    **dict.fromkeys(("padding", "stride", "dilation"), (0, 1, 2, 3)),
}
_UNLISTED = {  # settings that PyTorch's own list of signatures leaves out
    "scaled_dot_product_attention": {"is_causal": False, "scale": None},
    "var": {"correction": 1},
    "std": {"correction": 1},
    "tril": {"diagonal": 0},
    "triu": {"diagonal": 0},
}
_KINDS = (  # those of one kind take each other's place
    (
        *("relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "elu", "leaky_relu"),
        *("mish", "hardswish", "hardtanh", "selu", "softsign", "hardsigmoid", "relu6"),
        *("abs", "square"),
    ),
    ("mean", "sum", "amax", "amin"),
    ("softmax", "log_softmax"),
    ("layer_norm", "rms_norm"),
    ("add", "sub", "mul", "div"),
    ("gt", "ge", "lt", "le"),
    ("tril", "triu"),
    ("max_pool1d", "avg_pool1d"),
    ("max_pool2d", "avg_pool2d"),
    ("adaptive_max_pool1d", "adaptive_avg_pool1d"),
    ("adaptive_max_pool2d", "adaptive_avg_pool2d"),
)
_SILENT = {
    *("get", "dim", "size", "set_grad_enabled", "type", "new_tensor", "float", "to"),
    *("is_floating_point", "contiguous", "clone", "zeros", "ones", "empty", "tensor"),
}
# What an operation raises that gets what it cannot take, or shapes that do not fit; in
# a loop that other values end sooner, one operation has the number of another.
_UNFIT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError),
    *(TypeError, ValueError, Mismatch),
)


class Operation(NamedTuple):
    """A call of PyTorch.

    Attributes:
      after: how many inputs and outputs of modules had been noted before.
      function: what was called.
      args: with what.
      kwargs: with what.
    """

    after: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """What PyTorch calls it."""
        return getattr(self.function, "__name__", "?").strip("_")

    def __str__(self) -> str:
        numbers = [f"{x:g}" for x in self.args if isinstance(x, int | float)]
        words = [f"{k}={v!r}" for k, v in self.kwargs.items() if isinstance(v, str)]
        shown = ", ".join(numbers + words)
        return f"{self.name}({shown})" if shown else self.name


def shown(operations: Sequence[Operation]) -> str:
    """Return the operations in words, without those that compute nothing."""
    words = [str(o) for o in operations if o.name not in _SILENT]
    more = f" and {len(words) - MOST_SHOWN} more" if words[MOST_SHOWN:] else ""
    return ", ".join(words[:MOST_SHOWN]) + more


def tried(
    operations: Mapping[int, Operation], agrees: Callable[[Mapping[int, Change]], bool]
) -> list[str]:
    """Return the changes with which both sides agree, in words.

    Args:
      operations: those that may differ, by their number in the forward pass.
      agrees: runs PyTorch with the changes of the operations of these numbers.
    """
    # Of equal operations all are changed, or those of equal inputs, or one.
    trials: dict[tuple[Any, ...], dict[int, Change]] = defaultdict(dict)
    for number, operation in operations.items():
        if operation.name not in _SILENT:
            shape = getattr(operation.args[0] if operation.args else 0, "shape", ())
            for words, change in _alternatives(operation):
                for alike in ((), (shape,), (shape, number)):
                    trials[words, *alike][number] = change
    most_first = sorted(trials.items(), key=lambda trial: len(trial[0]))
    distinct = {(key[0], *changes): changes for key, changes in most_first}
    found: dict[str, None] = {}
    for (words, *_), changes in [*distinct.items()][:MOST_TRIALS]:
        try:
            with warnings.catch_warnings(action="ignore"):
                if words not in found and agrees(changes):
                    found[words] = None
        except _UNFIT:
            continue
        if len(found) == MOST_NAMED:
            break
    return [f"{words} (with that, PyTorch agrees)" for words in found]


def narrowed(operations: Sequence[Operation]) -> list[str]:
    """Return the operations of PyTorch that make less of numbers in float64."""
    torch = import_torch()
    narrow = torch.float32, torch.float16, torch.bfloat16
    found = {
        o.name
        for o in operations
        if o.name in ("float", "half", "bfloat16")
        or any(x is d for x in (*o.args, *o.kwargs.values()) for d in narrow)
    }
    words = ", ".join(sorted(found))
    return [f"PyTorch computes in float32 or less from {words} on"] if found else []


def of_state(apart: Mapping[str, float]) -> list[str]:
    """Return which changed state differs, the largest differences first."""
    wrong = sorted(
        ((x, name) for name, x in apart.items() if not x <= 1e-12), reverse=True
    )
    notes = [f"state {name} is {x:.1e} apart" for x, name in wrong[:MOST_NAMED]]
    if wrong and all("var" in name for _, name in wrong):
        notes.append("running variance: PyTorch's is unbiased, Flax's is not")
    elif wrong:
        notes.append("momentum of BatchNorm, where PyTorch's 0.1 is Flax's 0.9")
    return notes


def _alternatives(o: Operation) -> Iterator[tuple[str, Change]]:
    """Yield what may take the place of an operation, in words and as a function."""
    f = o.function
    first = next((x for x in o.args if is_tensor(x)), None)
    if first is not None:
        yield f"no {o}", lambda x, *_, **__: x
    for name, now in _arguments(o).items():
        word = "a tensor" if is_tensor(now) else repr(now)
        for value in _values(name, now, first):
            words = f"{name}={value!r} of {o.name} for PyTorch's {word}"
            yield words, _instead(f, f, **{name: value})
    yield from _operands(o)
    if o.name in ("chunk", "split", "unbind", "tensor_split"):
        for order in _orders(len(f(*o.args, **o.kwargs))):
            words = f"pieces of {o.name} in the order {order}"
            yield words, _after(f, itemgetter(*order))
    if o.name in ("cat", "stack", "concat"):
        for order in _orders(len(o.args[0])):
            yield f"{o.name} in the order {order}", _before(f, itemgetter(*order))
    if o.name == "transpose":
        yield (
            f"reshape for PyTorch's {o}",
            lambda x, *axes: x.reshape(f(x, *axes).shape),
        )
    if o.name in ("lstm", "gru", "lstm_cell", "gru_cell"):
        yield (
            f"a first state of zeros for PyTorch's in {o.name}",
            lambda x, state, *a: f(x, jax.tree.map(lambda s: s.mul(0), state), *a),
        )
        gates = 4 if "lstm" in o.name else 3
        for order in _orders(gates):
            yield f"gates of {o.name} in the order {order}", _gated(f, gates, order)
    yield from _of_its_kind(o)
    if first is not None:
        yield from _written_out(o, first)
        yield from _layouts(o, first)
    yield from _rotations(o)


def _before(f: Callable[..., Any], change: Callable[[Any], Any]) -> Change:
    """Return an operation of which the first argument is changed."""
    return lambda x, *args, **kwargs: f(change(x), *args, **kwargs)


def _after(f: Callable[..., Any], change: Callable[[Any], Any]) -> Change:
    """Return an operation of which the result is changed."""
    return lambda *args, **kwargs: change(f(*args, **kwargs))


def _names(f: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of a function's arguments, with their defaults."""
    overrides = import_torch().overrides.get_testing_overrides()
    if f not in overrides:
        return {}
    parameters = inspect.signature(overrides[f]).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _arguments(o: Operation) -> dict[str, Any]:
    """Return the arguments by name."""
    names = _names(o.function)
    if len(o.args) > len(names):
        return dict(o.kwargs)
    defaults = {k: v for k, v in names.items() if v is not inspect.Parameter.empty}
    given = dict(zip(names, o.args, strict=False))
    return defaults | _UNLISTED.get(o.name, {}) | given | o.kwargs


def _values(name: str, now: PyTree, first: "torch.Tensor | None") -> list[Any]:
    """Return what else a setting may be."""
    if name == "dim" and first is not None:
        axes = range(-first.ndim, 0)
        if isinstance(now, int):
            return [axis for axis in axes if axis % first.ndim != now % first.ndim]
        return [*itertools.combinations(axes, len(now))] if now else []
    if name not in _SETTINGS:
        return []
    plain = now[0] if isinstance(now, tuple | list) and len({*now}) == 1 else now
    return [
        value
        for value in _SETTINGS[name]
        if (value is not now if is_tensor(now) or value is None else value != plain)
    ]


def _instead(
    f: Callable[..., Any], other: Callable[..., Any], **settings: PyTree
) -> Change:
    """Return another function, given what it takes of the arguments, or other ones."""
    names, taken = [*_names(f)], [*_names(other)]

    def change(first: PyTree, *args: PyTree, **kwargs: PyTree) -> Any:
        given = dict(zip(names[1:], args)) | kwargs  # noqa: B905 - some are left out
        kept = {k: v for k, v in given.items() if other is f or k in taken}
        return other(first, **kept | settings)

    return change


def _of_its_kind(o: Operation) -> Iterator[tuple[str, Change]]:
    torch = import_torch()
    for kind in _KINDS:
        for name in kind if o.name in kind else ():
            other = getattr(torch.nn.functional, name, None) or getattr(torch, name)
            if name != o.name:
                yield f"{name} for PyTorch's {o}", _instead(o.function, other)
    if o.name in _KINDS[0]:
        yield (
            f"x sigmoid(1.702 x) for PyTorch's {o}",
            lambda x, **_: x * torch.sigmoid(1.702 * x),
        )
    if o.name in ("max", "min") and isinstance(_arguments(o).get("out"), int):
        for name in ("mean", "sum", "amax", "amin"):
            yield (
                f"{name} for PyTorch's {o}",
                lambda x, dim, name=name: torch.return_types.max(
                    (getattr(x, name)(dim), x.argmax(dim))
                ),
            )


def _operands(o: Operation) -> Iterator[tuple[str, Change]]:
    """Yield sums and products with other operands, and masks with another meaning."""
    f, torch = o.function, import_torch()
    if o.name in ("add", "sub", "mul", "div", "pow", "truediv", "rsub", "iadd"):
        x, y, *_ = (*o.args, None)
        if is_tensor(x) and is_tensor(y):
            yield f"{o.name} without its first operand", lambda x, y, **_: y
            yield f"{o.name} without its second operand", lambda x, y, **_: x
        elif isinstance(y, int | float):
            others = {2 * y, y / 2, -y, y * y, abs(y) ** 0.5, 1 / y if y else 1.0}
            for other in sorted(others | ({*EPSILONS} if abs(y) < 0.01 else set())):
                words = f"{o.name} with {other:g} for PyTorch's {y:g}"
                yield words, lambda x, _, other=other: f(x, other)

    def is_mask(x: PyTree) -> bool:
        return is_tensor(x) and x.dtype == torch.bool

    if not any(map(is_mask, (*o.args, *o.kwargs.values()))):
        return
    for words, change in (
        ("with true and false exchanged", lambda x: ~x),
        ("one further", lambda x: torch.cat([x[..., :1], x[..., :-1]], -1)),
        ("one less far", lambda x: torch.cat([x[..., 1:], x[..., -1:]], -1)),
    ):

        def masked(*args: PyTree, change: Change = change, **kwargs: PyTree) -> Any:
            args, kwargs = jax.tree.map(
                lambda x: change(x) if is_mask(x) else x, (args, kwargs)
            )
            return f(*args, **kwargs)

        yield f"the mask of {o.name} {words}", masked


def _written_out(o: Operation, x: "torch.Tensor") -> Iterator[tuple[str, Change]]:
    """Yield what a port may have for a part of what PyTorch's side writes out."""
    f, functional = o.function, import_torch().nn.functional
    y = o.args[1] if len(o.args) > 1 else None

    def centred(x: "torch.Tensor") -> "torch.Tensor":
        return x - x.mean(-1, keepdim=True)

    if o.name == "mul" and is_tensor(y):
        for words, other in (
            ("gelu", functional.gelu),
            ("gelu by tanh", partial(functional.gelu, approximate="tanh")),
            ("silu", functional.silu),
        ):
            yield f"{words} for PyTorch's product", lambda x, _, g=other: g(x)
    if o.name in ("matmul", "bmm") and is_tensor(y):
        size = x.shape[-1]
        yield (
            f"{o.name} over sqrt({size}), as in attention",
            _after(f, lambda x: x / size**0.5),
        )
    if o.name in ("pow", "square"):
        yield "the variance for PyTorch's mean of squares", _before(f, centred)
    if o.name in ("pow", "square") or getattr(y, "shape", ())[-1:] == (1,):
        yield "LayerNorm for PyTorch's RMSNorm", _before(f, centred)
    if o.name == "mean":
        yield (
            "a mean over n - 1, as of an unbiased variance",
            lambda x, *a, **k: (
                (z := f(x, *a, **k)) * (x.numel() / (x.numel() - z.numel()))
            ),
        )
    if o.name == "getitem":
        for axis, index in enumerate(y if isinstance(y, tuple) else (y,)):
            if isinstance(index, int):
                yield (
                    f"the mean over axis {axis} for PyTorch's {index}",
                    _before(
                        f, lambda x, axis=axis: x.mean(axis, keepdim=True).expand_as(x)
                    ),
                )


def _orders(count: int) -> list[tuple[int, ...]]:
    """Return the orders of a few pieces that are not their own."""
    return [*itertools.permutations(range(count))][1:] if count < 5 else []


def _gated(f: Callable[..., Any], gates: int, order: Sequence[int]) -> Change:
    def moved(x: PyTree) -> Any:
        if isinstance(x, list):
            return [*map(moved, x)]
        if not is_tensor(x):
            return x
        return import_torch().cat(itemgetter(*order)(x.chunk(gates)))

    return lambda x, hidden, *args: f(x, hidden, *map(moved, args))


def _layouts(o: Operation, x: "torch.Tensor") -> Iterator[tuple[str, Change]]:
    """Yield other orders of entries: of images, heads, kernels and padding."""
    torch, f = import_torch(), o.function
    if o.name in ("flatten", "reshape", "view", "unflatten"):
        yield (
            f"{o.name} with the channels last",
            _before(f, lambda x: x.movedim(1, -1).contiguous()),
        )
        yield (
            f"{o.name} with its last two axes in the other order",
            _after(f, lambda x: x.reshape(x.mT.shape).mT),
        )
    if len(o.args) > 1 and is_tensor(weight := o.args[1]) and weight.ndim > 1:
        yield (
            f"the weight of {o.name} transposed",
            lambda x, w, *a, **k: f(x, w.mT, *a, **k),
        )
        space = [*range(2, weight.ndim)]
        yield (
            f"the kernel of {o.name} flipped",
            lambda x, w, *a, **k: f(x, w.flip(space), *a, **k),
        )
    named = _arguments(o)
    if "padding" in named and "stride" in named:
        size = named["padding"]
        most = size if isinstance(size, int) else max(size, default=0)
        fill = -float("inf") if "max" in o.name else 0.0
        for ends in itertools.product(range(2 * most + 1), repeat=2):
            if ends[0] != ends[1]:
                pad = partial(
                    torch.nn.functional.pad, pad=ends * (x.ndim - 2), value=fill
                )
                words = f"padding {ends} of {o.name} for PyTorch's {size} at both ends"
                yield words, _before(_instead(f, f, padding=0), pad)
    flattens = "flatten", "reshape", "view"
    if x.ndim > 3 and (o.name in flattens or "stride" in named):
        words = f"{o.name} of its input with height and width exchanged"
        yield words, _before(f, lambda x: x.mT.contiguous())
    for axis in range(x.ndim):
        words = f"{o.name} of its input reversed along axis {axis}"
        yield words, _before(f, partial(torch.flip, dims=(axis,)))


def _rotations(o: Operation) -> Iterator[tuple[str, Change]]:
    """Yield the pairs of rotary embeddings as halves, or interleaved."""
    f, torch = o.function, import_torch()
    interleaved = "pairs interleaved (rotary embeddings) for PyTorch's halves"
    halves = "pairs in halves (rotary embeddings) for PyTorch's interleaved"
    if o.name in ("chunk", "split"):
        yield interleaved, lambda x, *_, **__: (x[..., ::2], x[..., 1::2])
    if o.name in ("cat", "concat") and len(o.args[0]) == 2:
        yield interleaved, lambda x, *_, **__: torch.stack(x, -1).flatten(-2)
    if o.name == "stack" and len(o.args[0]) == 2:
        yield halves, lambda x, *_, **__: torch.stack(x, -2)
    if o.name == "repeat_interleave" and isinstance(n := o.args[1], int):
        dim = _arguments(o).get("dim")
        last = dim in (-1, o.args[0].ndim - 1)
        words = halves if last else "tile for PyTorch's repeat_interleave"
        yield words, lambda x, *_, **__: torch.cat([x] * n, dim)
    if o.name == "view_as_complex":
        yield halves, lambda x: f(x.flatten(-2).unflatten(-1, (2, -1)).mT.contiguous())
    if o.name == "view_as_real":
        yield halves, _after(f, lambda x: x.mT.contiguous().view(x.shape))
    match o.args:
        case (x, (*_, slice(start=start, stop=stop, step=step))) if is_tensor(x):
            size, step = x.shape[-1], step or 1
            if step == 2:
                yield halves, lambda x, _: x.chunk(2, -1)[start or 0]
            elif size // 2 in (start, stop):
                yield interleaved, lambda x, _: x[..., int(bool(start)) :: 2]
