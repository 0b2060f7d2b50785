"""A Linen or NNX module, or a plain function, as a pure function of its arrays."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, DTypeLike, PRNGKeyArray, PyTree

from ch4jax import interop

if TYPE_CHECKING:
    import torch

Options = Mapping[str, Any]  # `names` and `flattened` of `interop`
Path = tuple[str, ...]
Flax = linen.Module | nnx.Module | Callable[..., PyTree]
Context = linen.module.InterceptorContext
Calls = list[tuple[Path, str, Any, Any]]  # path, "into" or "out of", value, module


class Side(ABC):
    """What both kinds of module have in common; `variables` are as `interop` wants."""

    variables: PyTree

    @abstractmethod
    def split(self, variables: PyTree) -> tuple[PyTree, PyTree]:
        """Return the parameters, and all else that is an array."""

    @abstractmethod
    def apply(
        self,
        params: PyTree,
        state: PyTree,
        inputs: Sequence[Array],
        *,
        train: bool,
        key: PRNGKeyArray,
    ) -> tuple[PyTree, PyTree]:
        """Return the outputs and the new state."""

    def cast(self, dtype: DTypeLike) -> Any:
        """Return the variables with all floats of one dtype."""
        return cast(self.variables, dtype)

    @contextmanager
    def watched(self) -> Iterator[Calls]:
        """Collect what goes into and comes out of each module, in order."""
        yield []

    def carried(
        self, source: "torch.nn.Module", options: Options
    ) -> tuple[PyTree, PyTree]:
        """Return parameters and state with the values of a module of PyTorch."""
        return self.split(interop.from_torch(source, self.variables, **options))

    def gradients(self, source: "torch.nn.Module", options: Options) -> PyTree:
        """Return the gradients of a module of PyTorch, as our parameters are."""
        like = self.split(self.variables)[0]
        return interop.from_torch(source, like, gradients=True, **options)


class Linen(Side):
    """A Linen module; without variables, their shapes are those of `init`."""

    def __init__(
        self, module: linen.Module, variables: PyTree | None, inputs: Sequence[Array]
    ) -> None:
        self.module = module
        params_key, dropout_key = jax.random.split(jax.random.key(0))
        keys = {"params": params_key, "dropout": dropout_key}
        init = partial(module.init, **_mode(module, train=False))
        if variables is None:
            variables = {"params": {}, **jax.eval_shape(init, keys, *inputs)}
        names = [*variables] if isinstance(variables, Mapping) else []
        if "params" not in names:
            raise TypeError(
                f"expected variables as `init` returns, with `params`, got {names}"
            )
        self.variables = variables

    def split(self, variables: PyTree) -> tuple[PyTree, PyTree]:
        state = {k: v for k, v in variables.items() if k != "params"}
        return variables["params"], state

    def apply(self, params, state, inputs, *, train, key):
        return self.module.apply(
            {"params": params, **state},
            *inputs,
            **_mode(self.module, train),
            rngs={"dropout": key},
            mutable=list(state) if train else [],
        )

    @contextmanager
    def watched(self) -> Iterator[Calls]:
        calls: Calls = []

        def record(
            call: Callable, args: tuple, kwargs: dict, context: Context
        ) -> PyTree:
            module = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            calls.append((module.path, "into", args, module))
            outputs = call(*args, **kwargs)
            calls.append((module.path, "out of", outputs, module))
            return outputs

        with linen.intercept_methods(record):
            yield calls


class NNX(Side):
    """An NNX module; its graph is fixed, its arrays are arguments."""

    def __init__(self, module: nnx.Module) -> None:
        self.variables = module

    def split(self, variables: PyTree) -> tuple[PyTree, PyTree]:
        self.graph, params, state = nnx.split(variables, nnx.Param, ...)
        return params, state

    def apply(self, params, state, inputs, *, train, key):
        # New variables, since those of another trace must not be changed in this one.
        params, state = jax.tree.map(lambda x: x, (params, state))
        module = nnx.merge(self.graph, params, state)
        module.train() if train else module.eval()
        outputs = module(*inputs, **_mode(module, train))
        return outputs, nnx.split(module, nnx.Param, ...)[2]

    def cast(self, dtype: DTypeLike) -> Any:
        params, state = self.split(self.variables)
        return nnx.merge(self.graph, cast(params, dtype), cast(state, dtype))

    def gradients(self, source: "torch.nn.Module", options: Options) -> PyTree:
        module = interop.from_torch(source, self.variables, gradients=True, **options)
        return nnx.state(module, nnx.Param)

    @contextmanager
    def watched(self) -> Iterator[Calls]:
        calls: list[tuple[nnx.Module, str, Any]] = []
        found: Calls = []
        classes = {type(module) for _, module in nnx.iter_modules(self.variables)}

        def watch(call: Callable) -> Callable:
            def record(module: nnx.Module, *args: PyTree, **kwargs: PyTree) -> PyTree:
                calls.append((module, "into", args))
                outputs = call(module, *args, **kwargs)
                calls.append((module, "out of", outputs))
                return outputs

            return record

        merge = nnx.merge
        paths: dict[int, Path] = {}

        def merged(*args: PyTree) -> nnx.Module:
            module = merge(*args)
            for path, part in nnx.iter_modules(module):
                paths[id(part)] = tuple(map(str, path))
            return module

        with ExitStack() as patches:
            for kind in classes:
                if "__call__" in vars(kind):
                    call = watch(kind.__call__)
                    patches.enter_context(mock.patch.object(kind, "__call__", call))
            patches.enter_context(mock.patch.object(nnx, "merge", merged))
            yield found
        found += [(paths[id(part)], when, x, part) for part, when, x in calls]


class Plain(Side):
    """A function `apply(params, *inputs)`, with `train` and `key` if it takes them."""

    def __init__(self, apply: Callable[..., PyTree], params: PyTree) -> None:
        self.function, self.variables = apply, params

    def split(self, variables: PyTree) -> tuple[PyTree, PyTree]:
        return variables, {}

    def apply(self, params, state, inputs, *, train, key):
        options = accepted(self.function, train=train, key=key if train else None)
        return self.function(params, *inputs, **options), state


def side_of(ours: Flax, params: PyTree | None, inputs: Sequence[Array]) -> Side:
    """Return what `ours` is.

    Raises:
      TypeError: if it is no module and no function, or a function without parameters.
    """
    if isinstance(ours, linen.Module):
        return Linen(ours, params, inputs)
    if isinstance(ours, nnx.Module):
        return NNX(ours)
    if not callable(ours) or params is None:
        raise TypeError(
            "expected a Linen or NNX module, or a function and its `params`, got "
            f"{type(ours).__name__}"
        )
    return Plain(ours, params)


@contextmanager
def carries(dtype: DTypeLike) -> Iterator[None]:
    """Let Flax's recurrent cells start from zeros of a dtype, whatever their own."""
    cells = linen.RNNCellBase.__subclasses__() + nnx.RNNCellBase.__subclasses__()
    with ExitStack() as patches:
        for cell in cells:
            if start := vars(cell).get("initialize_carry"):
                wide = _then_cast(start, dtype)
                patches.enter_context(mock.patch.object(cell, "initialize_carry", wide))
        yield


def _then_cast(start: Callable[..., PyTree], dtype: DTypeLike) -> Callable[..., PyTree]:
    return lambda *args, **kwargs: cast(start(*args, **kwargs), dtype)


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Return a tree with its floating-point arrays in another dtype."""

    def one(x: Array) -> Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(x, dtype)
        return x

    return jax.tree.map(one, tree)


def _mode(module: linen.Module | nnx.Module, train: bool) -> dict[str, Any]:
    """Return how the module's `__call__` is told that it trains, if it takes that."""
    modes = dict.fromkeys(("train", "training", "is_training"), train)
    modes |= {"deterministic": not train}
    return accepted(type(module).__call__, **modes)


def accepted(function: Callable[..., Any], **options: PyTree) -> dict[str, Any]:
    """Return those of the options that a function takes by name."""
    try:
        names = inspect.signature(function).parameters
    except ValueError:  # it is written in C
        return {}
    return {name: value for name, value in options.items() if name in names}
