"""Forward and backward propagation, quantity by quantity (D2L 5.3).

Without flags: a batch of 256 images goes through 784-256-10 and back, by hand, by
`jax.grad` and by finite differences; then what the forward pass has to keep in memory,
and what `jax.checkpoint` changes.

Measured: by hand and `jax.grad` agree to 2e-16 in float64; central differences come
within 3e-10 of them, in float32 within 1e-4. By hand, 272,384 bytes are kept; JAX
keeps 545,796, because tanh leaves both h and 1 - h for its derivative; under
`jax.checkpoint` it keeps none and computes both products of the forward pass again.
Compiled, all three need 272,384: one hidden layer is too few for it to pay.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from ch4jax import backprop
from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import to_float
from experiments.common import cli, plots
from experiments.common.console import Report
from experiments.common.errors import UsageError


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags."""

    hidden: int = 256
    """Units of the hidden layer."""
    batch_size: int = 256
    """Images, the first of the shipped tenth."""
    lambd: float = 0.01
    """Coefficient of the L2 penalty."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        cli.check_at_least_1("--hidden", self.hidden)
        cli.check_at_least_1("--batch-size", self.batch_size)
        if not 0.0 <= self.lambd < math.inf:
            raise UsageError(f"--lambd must be at least 0 and finite, got {self.lambd}")


def run(config: Config, report: Report) -> None:
    """Compare the gradients, draw the graph and the differences, count the bytes."""
    data = fashion_mnist.load("mini")
    if config.batch_size > len(data.train_images):
        raise UsageError(
            f"--batch-size must be at most the {len(data.train_images):,} training "
            f"images, got {config.batch_size}"
        )
    report.begin(config)
    with jax.enable_x64(True):
        quantities = show_gradients(config, data, report)
        differences = show_differences(config, data, report)
    memory = show_memory(config, data, report)
    report.finish(
        {
            "quantities": quantities,
            "differences": differences,
            "memory": memory,
            "seconds": report.seconds(),
        }
    )


def problem(config: Config, data: Any) -> tuple[Any, Any, Any]:
    """Return parameters, images as rows, and labels, in JAX's present precision."""
    x = to_float(jnp.asarray(data.train_images[: config.batch_size]))
    labels = jnp.asarray(data.train_labels[: config.batch_size], int)
    key = jax.random.key(config.seed)
    params = backprop.init_params(28 * 28, config.hidden, 10, key=key)
    return params, x.reshape(len(x), -1), labels


def show_gradients(config: Config, data: Any, report: Report) -> dict[str, Any]:
    """Print and draw the norm of every quantity and of its gradient."""
    params, x, labels = problem(config, data)
    kept = backprop.forward(params, x, labels, config.lambd)
    by_hand = backprop.backward(params, x, labels, config.lambd, kept)
    by_jax = backprop.autodiff(params, x, labels, config.lambd)
    values = {"x": x, **params._asdict(), **kept._asdict()}

    quantities: dict[str, Any] = {"x": {"norm": jnp.linalg.norm(x)}}
    for name, gradient in reversed(by_hand._asdict().items()):
        reference = getattr(by_jax, name)
        quantities[name] = {
            "shape": values[name].shape,
            "norm": jnp.linalg.norm(values[name]),
            "gradient_norm": jnp.linalg.norm(gradient),
            "difference": jnp.linalg.norm(gradient - reference)
            / jnp.linalg.norm(reference),
        }
    report.table(
        ["", "shape", "norm", "norm of dJ/d.", "by hand against jax.grad"],
        [
            [
                name,
                " x ".join(map(str, entry["shape"])) or "scalar",
                f"{entry['norm']:.4g}",
                f"{entry['gradient_norm']:.4g}",
                f"{entry['difference']:.1e}",
            ]
            for name, entry in quantities.items()
            if name != "x"
        ],
        title=f"784-{config.hidden}-10, batch of {config.batch_size}, float64",
    )
    draw_graph(config, quantities, report)
    return quantities


def draw_graph(config: Config, quantities: dict[str, Any], report: Report) -> None:
    """Draw the computational graph of the book with the norms on it."""
    places = {
        "x": (0, 1),
        "w1": (0, 0),
        "z": (1, 1),
        "h": (2, 1),
        "w2": (2, 0),
        "o": (3, 1),
        "L": (4, 1),
        "s": (4, 0),
        "J": (5, 1),
    }
    arrows = ("x z", "w1 z", "z h", "h o", "w2 o", "o L", "L J", "w1 s", "w2 s", "s J")
    with plots.figure(
        report.folder / "graph.png",
        size=(8.5, 3.2),
        title="Each quantity with its norm (above) and the norm of its gradient "
        f"(below), λ = {config.lambd:g}",
    ) as axes:
        for arrow in arrows:
            start, end = arrow.split()
            # Around w2, which stands between w1 and s.
            bend = "arc3,rad=0.25" if arrow == "w1 s" else "arc3"
            style = {"arrowstyle": "-|>", "color": "0.5", "connectionstyle": bend}
            gap = {"shrinkA": 25, "shrinkB": 27}
            axes.annotate("", places[end], places[start], arrowprops={**style, **gap})
        for name, place in places.items():
            entry = quantities[name]
            axes.annotate(
                name,
                place,
                ha="center",
                va="center",
                fontsize=13,
                bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": "0.3"},
            )
            texts = [(f"{entry['norm']:.3g}", 19, plots.COLOURS[0])]
            if "gradient_norm" in entry:
                texts.append((f"{entry['gradient_norm']:.3g}", -28, plots.COLOURS[1]))
            for text, offset, colour in texts:
                axes.annotate(
                    text,
                    place,
                    (0, offset),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                )
        axes.set(xlim=(-0.4, 5.4), ylim=(-0.8, 1.4))
        axes.axis("off")


def show_differences(config: Config, data: Any, report: Report) -> dict[str, Any]:
    """Compare slopes by hand with central differences, for many step sizes."""
    steps = np.logspace(-9, 0, 28)
    best = {}
    with plots.figure(
        report.folder / "differences.png",
        size=(8.5, 3.2),
        title="Central differences against the gradient by hand, along 4 random "
        "directions",
    ) as axes:
        for dtype in ("float64", "float32"):
            errors = difference_errors(config, data, steps, dtype)
            axes.plot(steps, errors, label=dtype)
            best[dtype] = {"step": steps[errors.argmin()], "error": errors.min()}
        axes.set(xlabel="step", ylabel="relative difference", xscale="log")
        axes.set(yscale="log")
        axes.legend()
    for dtype, least in best.items():
        report.say(
            f"central differences in {dtype}: {least['error']:.1e} from the gradient "
            f"by hand at the best step, {least['step']:.0e}"
        )
    return best


def difference_errors(config: Config, data: Any, steps: Any, dtype: str) -> Any:
    """Return the relative error of central differences for each step size."""
    params, x, labels = problem(config, data)
    params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))
    kept = backprop.forward(params, x, labels, config.lambd)
    gradients = backprop.backward(params, x, labels, config.lambd, kept)

    @jax.jit
    def difference(direction: Any, step: Any) -> Any:
        def objective(moved: Any) -> Any:
            return backprop.forward(moved, x, labels, config.lambd).J

        return backprop.directional_difference(objective, params, direction, step)

    exact, estimates = [], []
    for key in jax.random.split(jax.random.key(config.seed), 4):
        direction = backprop.Params(
            *(
                jax.random.normal(leaf_key, leaf.shape, dtype)
                for leaf_key, leaf in zip(jax.random.split(key), params, strict=True)
            )
        )
        exact.append(
            (gradients.w1 * direction.w1).sum() + (gradients.w2 * direction.w2).sum()
        )
        estimates.append([difference(direction, step) for step in steps.astype(dtype)])
    slopes = np.asarray(exact)[:, None]
    errors = np.asarray(estimates) - slopes
    return np.linalg.norm(errors, axis=0) / np.linalg.norm(slopes)


def show_memory(config: Config, data: Any, report: Report) -> dict[str, Any]:
    """Count what the forward pass keeps, and what `jax.checkpoint` makes of it."""
    params, x, labels = problem(config, data)

    def objective(params: Any, x: Any, labels: Any) -> Any:
        return backprop.forward(params, x, labels, config.lambd).J

    save_products = jax.checkpoint_policies.dots_saveable
    variants = {
        "jax.grad": objective,
        "jax.checkpoint": jax.checkpoint(objective),
        "the same, keeping matrix products": jax.checkpoint(
            objective, policy=save_products
        ),
    }
    memory: dict[str, Any] = {}
    for name, fn in variants.items():
        gradient = jax.grad(fn)
        compiled = jax.jit(gradient).lower(params, x, labels).compile()
        stats = compiled.memory_analysis()  # not every backend knows
        saved = backprop.saved_bytes(fn, params, x, labels)
        program = str(jax.make_jaxpr(gradient)(params, x, labels))
        memory[name] = {
            **saved._asdict(),
            "matrix_products": program.count("dot_general["),
            "compiled": stats.temp_size_in_bytes if stats else None,
        }
    report.table(
        ["bytes", "of arguments", "computed", "matrix products", "compiled"],
        [
            [name, *("?" if n is None else f"{n:,}" for n in row.values())]
            for name, row in memory.items()
        ],
        title="Kept from the forward to the backward pass, float32",
    )
    kept = backprop.forward(params, x, labels, config.lambd)
    by_hand = kept.h.nbytes + kept.o.nbytes
    report.say(
        f"by hand, only h and o are kept: {by_hand:,} bytes; compiled is the scratch "
        "memory of the program that XLA makes of forward and backward pass together"
    )
    return {**memory, "by hand": by_hand}


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
