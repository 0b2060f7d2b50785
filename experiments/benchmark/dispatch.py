"""What a call costs: a jitted step of a tiny model, written in four ways."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from flax.training.train_state import TrainState
from jaxtyping import Array, Float, PyTree

from experiments.benchmark.rows import DISPATCH, Work

CALLS = 1000  # so that seconds in the table are milliseconds a call
WIDTHS = (8, 8, 8, 8)
SHAPE = (8, 8)
OPTIMIZER = optax.adam(1e-3)
Rows = Float[Array, "rows inputs"]
Step = Callable[[PyTree], PyTree]


class LinenMLP(linen.Module):
    """Layers of `WIDTHS`."""

    @linen.compact
    def __call__(self, x: Rows) -> Rows:
        """Return the last layer."""
        for width in WIDTHS:
            x = linen.relu(linen.Dense(width)(x))
        return x


class NNXMLP(nnx.Module):
    """The same."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(n, n, rngs=rngs) for n in WIDTHS])

    def __call__(self, x: Rows) -> Rows:
        """Return the last layer."""
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


def steps() -> Iterator[tuple[str, Step, PyTree]]:
    """Yield the name of each way, its step, and the state to start from."""
    model = LinenMLP()
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones(SHAPE))

    @jax.grad
    def gradient(params: PyTree) -> Array:
        return jnp.square(jnp.asarray(model.apply(params, jnp.ones(SHAPE)))).mean()

    @jax.jit
    def pure(state: tuple[PyTree, optax.OptState]) -> tuple[PyTree, optax.OptState]:
        params, opt_state = state
        updates, opt_state = OPTIMIZER.update(gradient(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    @jax.jit
    def with_linen(state: TrainState) -> TrainState:
        return state.apply_gradients(grads=gradient(state.params))

    yield "pure function", pure, (params, OPTIMIZER.init(params))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=OPTIMIZER)
    yield "Linen, TrainState", with_linen, state
    for graph in (True, False):
        with nnx.set_graph_mode(graph):
            module = NNXMLP(rngs=nnx.Rngs(0))
            optimizer = nnx.Optimizer(module, OPTIMIZER, wrt=nnx.Param)
        with_nnx = partial(_with_nnx, nnx.jit(_nnx_step, graph=graph), graph)
        yield f"NNX, {'graph' if graph else 'tree'} mode", with_nnx, (module, optimizer)


def _nnx_step(module: NNXMLP, optimizer: nnx.Optimizer) -> None:
    grads = nnx.grad(lambda module: jnp.square(module(jnp.ones(SHAPE))).mean())(module)
    optimizer.update(module, grads)


def _with_nnx(
    step: Callable[..., None], graph: bool, state: tuple[NNXMLP, nnx.Optimizer]
) -> tuple[NNXMLP, nnx.Optimizer]:
    with nnx.set_graph_mode(graph):
        step(*state)
    return state


def rows() -> Iterator[Work]:
    """Yield `CALLS` steps, one after the other, in each way."""

    def run(step: Step, state: PyTree) -> PyTree:
        for _ in range(CALLS):
            state = step(state)
        return state

    for name, step, state in steps():
        yield Work(DISPATCH, f"JAX, {name}", partial(run, step, state), CALLS)
