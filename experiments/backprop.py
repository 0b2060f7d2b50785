"""Forward and backward propagation, quantity by quantity (D2L 5.3).

Without flags: a batch of 256 images goes through 784-256-10 and back, by hand, by
`jax.grad` and by finite differences; then what the forward pass has to keep in memory,
and what `jax.checkpoint` changes.

Measured: by hand and `jax.grad` agree to 2e-16 in float64; central differences come
within 4e-10 of them, in float32 within 2e-4. By hand, 272,384 bytes are kept; JAX
keeps 545,796, because tanh leaves both h and 1 - h for its derivative; under
`jax.checkpoint` it keeps none and computes both products of the forward pass again.
Compiled, all three need 272,384: with one hidden layer `jax.checkpoint` saves nothing.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from ch4jax import backprop
from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import FashionMNIST, to_float
from experiments.common import cli, plots
from experiments.common.console import say
from experiments.common.run_folder import RunFolder

Quantities = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags."""

    hidden: cli.Count = 256
    """Units of the hidden layer."""
    batch_size: cli.Count = 256
    """Images, the first of the shipped tenth."""
    lambd: cli.From0 = 0.01
    """Coefficient of the L2 penalty."""


class Problem(NamedTuple):
    """The arguments of `backprop.forward`."""

    params: backprop.Params
    x: Float[Array, "batch pixels"]
    labels: Int[Array, " batch"]
    lambd: float


def run(config: Config) -> None:
    """Compare the gradients, draw the graph and the differences, count the bytes."""
    data = fashion_mnist.load("mini")
    cli.check_batch_size(config.batch_size, len(data.train_images))
    folder = RunFolder.create("backprop", config)
    with jax.enable_x64(True):
        problem = draw_problem(config, data)
        quantities = show_gradients(problem, folder)
        differences = show_differences(problem, config.seed, folder)
    memory = show_memory(draw_problem(config, data), folder)
    largest = max(float(row.get("difference", 0)) for row in quantities.values())
    folder.finish(
        {"quantities": quantities, "differences": differences, "memory": memory},
        headline=f"By hand and jax.grad differ by at most {largest:.1e} of the norm of "
        "a gradient.",
    )


def draw_problem(config: Config, data: FashionMNIST) -> Problem:
    """Return images as rows, labels and parameters, in JAX's present precision."""
    x = to_float(jnp.asarray(data.train_images[: config.batch_size]))
    labels = jnp.asarray(data.train_labels[: config.batch_size], int)
    key = jax.random.key(config.seed)
    params = backprop.init_params(28 * 28, config.hidden, 10, key=key)
    return Problem(params, x.reshape(len(x), -1), labels, config.lambd)


def show_gradients(problem: Problem, folder: RunFolder) -> Quantities:
    """Print and draw the norm of every quantity and of its gradient."""
    kept = backprop.forward(*problem)
    by_hand = backprop.backward(*problem, kept)
    by_jax = backprop.autodiff(*problem)
    values = {**problem.params._asdict(), **kept._asdict()}
    norm = jnp.linalg.norm

    quantities: Quantities = {"x": {"norm": norm(problem.x)}}
    rows = []
    for name, gradient in reversed(by_hand._asdict().items()):
        shape, expected = values[name].shape, getattr(by_jax, name)
        quantities[name] = entry = {
            "shape": shape,
            "norm": norm(values[name]),
            "gradient_norm": norm(gradient),
            "difference": norm(gradient - expected) / norm(expected),
        }
        norms = (f"{entry[field]:.4g}" for field in ("norm", "gradient_norm"))
        size = " x ".join(map(str, shape)) or "scalar"
        rows.append([name, size, *norms, f"{entry['difference']:.1e}"])
    images, hidden = kept.z.shape
    folder.table(
        ["", "shape", "norm", "norm of dJ/d.", "by hand against jax.grad"],
        rows,
        title=f"784-{hidden}-10, batch of {images}, float64",
        num_texts=2,
    )
    draw_graph(problem.lambd, quantities, folder)
    return quantities


def draw_graph(lambd: float, quantities: Quantities, folder: RunFolder) -> None:
    """Draw the book's graph: operations and norms forward, what flows back dashed."""
    places = {"x": (0, 1), "z": (1, 1), "h": (2, 1), "o": (3, 1), "L": (4, 1)}
    places |= {"J": (5, 1), "w1": (0, 0), "w2": (2, 0), "s": (4, 0)}
    arrows = ("x z", "w1 z", "z h", "h o", "w2 o", "o L", "L J", "w1 s", "w2 s", "s J")
    operations = {"z": "x w1", "h": "tanh z", "o": "h w2", "L": "cross-entropy"}
    operations |= {"s": "λ/2 (‖w1‖² + ‖w2‖²)", "J": "L + s"}
    forward, back = plots.COLOURS[:2]
    with folder.figure(
        "graph.png",
        size=(8.5, 3.8),
        title="Forward (blue), each quantity with its norm; back (orange), the norm of "
        f"the gradient in it; λ = {lambd:g}",
        caption="The gradient takes the same edges back: where two arrive, as in w1 "
        "and w2, they are added.",
        alt="A graph of nine nodes: x and w1 lead to z, z to h, h and w2 to o, o to L; "
        "w1 and w2 lead to the penalty s; L and s lead to J. Each node has its "
        "operation, its norm and, except x, the norm of its gradient beside it; a "
        "dashed arrow leads back beside each solid one but that from x.",
    ) as axes:
        for arrow in arrows:
            start, end = arrow.split()
            bend = 0.3 if arrow == "w1 s" else 0.08  # around w2, which lies between
            line = {"arrowstyle": "-|>", "shrinkA": 21, "shrinkB": 22}
            curve = f"arc3,rad={bend}"
            style = line | {"color": forward, "connectionstyle": curve}
            axes.annotate("", places[end], places[start], arrowprops=style)
            curve = f"arc3,rad={-0.24 if arrow == 'w1 s' else bend}"
            style = line | {"color": back, "connectionstyle": curve, "ls": "--"}
            if start != "x":
                axes.annotate("", places[start], places[end], arrowprops=style)
        circle = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "0.3"}
        for name, (x, y) in places.items():
            axes.text(x, y, name, ha="center", va="center", fontsize=13, bbox=circle)
            lines = [operations.get(name), f"{quantities[name]['norm']:.3g}"]
            words = "\n".join(filter(None, lines if y else reversed(lines)))
            aligned = {"fontsize": 9, "ha": "center", "textcoords": "offset points"}
            aligned["va"] = "bottom" if y else "top"
            axes.annotate(
                words, (x, y), (0, 20 * (2 * y - 1)), color=forward, **aligned
            )
            if slope := quantities[name].get("gradient_norm"):
                beside = (16, -29) if y else (-14, 28)  # clear of the arrows
                axes.annotate(f"{slope:.3g}", (x, y), beside, color=back, **aligned)
        axes.set(xlim=(-0.4, 5.4), ylim=(-0.9, 1.4))
        axes.axis("off")


def show_differences(
    problem: Problem, seed: int, folder: RunFolder
) -> dict[str, dict[str, float]]:
    """Compare slopes by hand with central differences, for many step sizes."""
    steps = np.logspace(-9, 0, 28)
    best, curves = {}, {}
    for dtype in ("float64", "float32"):
        errors = curves[dtype] = difference_errors(problem, steps, dtype, seed)
        step, error = steps[errors.argmin()], errors.min()
        best[dtype] = {"step": step, "error": error}
        say(
            f"central differences in {dtype}: {error:.1e} from the gradient by "
            f"hand at the best step, {step:.0e}"
        )
    with folder.figure(
        "differences.png",
        size=(8.5, 3.2),
        title="Central differences confirm the gradient by hand to "
        f"{best['float64']['error']:.0e} in float64",
        caption="Too long a step is not a derivative, too short a one is rounding; in "
        "between the gradient by hand is confirmed.",
        alt="Line chart on logarithmic axes: the relative difference between central "
        "differences and the gradient by hand against the step, one line for float64 "
        "and one for float32, each with a valley.",
    ) as axes:
        for dtype, errors in curves.items():
            axes.plot(steps, errors, label=dtype)
        axes.set(xlabel="step", ylabel="relative difference")
        axes.set(xscale="log", yscale="log")
        axes.legend()
    return best


def difference_errors(
    problem: Problem, steps: Float[np.ndarray, " steps"], dtype: str, seed: int
) -> Float[np.ndarray, " steps"]:
    """Return the relative error of central differences for each step size."""
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), problem[:2])
    data = (x, problem.labels, problem.lambd)
    gradients = backprop.backward(params, *data, backprop.forward(params, *data))

    @jax.jit
    def difference(direction: backprop.Params, step: Array) -> Array:
        return backprop.directional_difference(
            lambda moved: backprop.forward(moved, *data).J, params, direction, step
        )

    exact, estimates = [], []
    for key in jax.random.split(jax.random.key(seed), 4):
        w1_key, w2_key = jax.random.split(key)
        w1 = jax.random.normal(w1_key, params.w1.shape, dtype)
        w2 = jax.random.normal(w2_key, params.w2.shape, dtype)
        exact.append((gradients.w1 * w1).sum() + (gradients.w2 * w2).sum())
        direction = backprop.Params(w1, w2)
        estimates.append([difference(direction, step) for step in steps.astype(dtype)])
    slopes = np.asarray(exact)[:, None]
    errors = np.asarray(estimates) - slopes
    return np.linalg.norm(errors, axis=0) / np.linalg.norm(slopes)


def show_memory(problem: Problem, folder: RunFolder) -> dict[str, Any]:
    """Count what the forward pass keeps, with and without `jax.checkpoint`."""
    data = problem[:3]

    def objective(params: backprop.Params, x: Array, labels: Array) -> Array:
        return backprop.forward(params, x, labels, problem.lambd).J

    products = jax.checkpoint_policies.dots_saveable
    variants = {
        "jax.grad": objective,
        "jax.checkpoint": jax.checkpoint(objective),
        "the same, keeping matrix products": jax.checkpoint(objective, policy=products),
    }
    memory: dict[str, Any] = {}
    for name, fn in variants.items():
        gradient = jax.grad(fn)
        program = str(jax.make_jaxpr(gradient)(*data))
        stats = jax.jit(gradient).lower(*data).compile().memory_analysis()
        memory[name] = backprop.saved_bytes(fn, *data)._asdict() | {
            "matrix_products": program.count("dot_general["),
            "compiled": stats.temp_size_in_bytes if stats else None,
        }
    kept = backprop.forward(*problem)
    by_hand = kept.h.nbytes + kept.o.nbytes
    folder.table(
        ["bytes", "of arguments", "computed", "matrix products", "XLA scratch"],
        [
            *(
                [name, *("?" if n is None else f"{n:,}" for n in row.values())]
                for name, row in memory.items()
            ),
            ["by hand: h and o", "", f"{by_hand:,}", "", ""],
        ],
        title="Kept from the forward to the backward pass, float32",
    )
    return {**memory, "by hand": by_hand}


if __name__ == "__main__":
    cli.main(Config, run)
