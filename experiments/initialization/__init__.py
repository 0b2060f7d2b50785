"""Why deep networks need good initialisation, and what else helps (D2L 5.4, 6.3).

Without flags: the initialisers, the sigmoid's gradient, a product of 100 random
matrices, the symmetry of a constant start, and the signal in perceptrons of 30 hidden
layers; then each of them trained on the shipped tenth of Fashion-MNIST.

Measured with seeds 0 to 2: test accuracy after 20 epochs, mean (and worst seed). At
chance, 0.100, stay sigmoid, ReLU from N(0, 0.01²), and the latter with layer norm,
whose gradient is 350 times larger in the first layer than in the last. He with ReLU
reaches 0.789 (0.782), Xavier with tanh 0.790 (0.778), residual 0.801 (0.799), sigmoid
with layer norm 0.823 (0.813). At a learning rate of 0.2 He diverges; clipped by norm
it reaches 0.784 (0.768), by value 0.787 (0.779). From N(0, 0.3²) clipping prevents
the divergence, but rescues no seed: 0.321 (0.100).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from ch4jax.data import fashion_mnist
from ch4jax.initialization import product_log_norms, sigmoid_gradient
from ch4jax.training import population
from experiments.common import cli, plots
from experiments.common.console import Report
from experiments.initialization.networks import (
    HE,
    LARGE,
    SIGMOID,
    SIGMOID_NORMED,
    SMALL,
    SMALL_NORMED,
    SMALL_RESIDUAL,
    TANH,
    initializers,
    signal,
)
from experiments.initialization.remedies import show_remedies, show_symmetry


@dataclass(frozen=True)
class Config(cli.TrainingFlags):
    """Flags; what the remedies are claimed to do is claimed for the defaults."""

    epochs: int = 20
    """Passes over the data for each network."""
    depth: int = 30
    """Hidden layers."""
    width: int = 64
    """Units of each hidden layer."""
    seeds: int = 3
    """Networks of each kind trained at once, from the seeds SEED, SEED + 1, ..."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        for name in ("epochs", "depth", "width", "seeds"):
            cli.check_at_least_1(f"--{name}", getattr(self, name))


# What fails is drawn solid, and its remedy dashed in the same colour.
WATCHED = {
    SMALL: (0, "-"),
    SMALL_RESIDUAL: (0, "--"),
    SIGMOID: (1, "-"),
    SIGMOID_NORMED: (1, "--"),
    LARGE: (3, "-"),
    SMALL_NORMED: (4, "-"),
    HE: (2, "-"),
    TANH: (5, "-"),
}


def run(config: Config, report: Report) -> None:
    """Show each phenomenon, train each remedy beside what it mends, and draw."""
    data = fashion_mnist.load("mini").on_device()
    report.begin(config)
    show_initializers(config, report)
    draw_sigmoid(report)
    products = show_products(config, report)
    signals = show_signals(config, data, report)
    symmetry = show_symmetry(config, data, report)
    trained = show_remedies(config, data, report)
    report.finish(
        {
            "products": products,
            "signals": signals,
            "symmetry": symmetry,
            "remedies": trained,
            "seconds": report.seconds(),
        }
    )


def show_initializers(config: Config, report: Report) -> None:
    """Print what each initialiser draws for a layer with 256 inputs, 128 outputs."""
    rows = []
    for i, (name, init) in enumerate(initializers().items()):
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        w = np.asarray(init(key, (256, 128)))
        numbers = (w.mean(), w.std(), w.min(), w.max())
        rows.append([name, *(f"{n:.4f}" for n in numbers), f"{(w == 0).mean():.1%}"])
    columns = ["", "mean", "deviation", "least", "largest", "zeros"]
    report.table(columns, rows, title="Initialisers, 256 inputs and 128 outputs")


def draw_sigmoid(report: Report) -> None:
    """Draw the sigmoid and its gradient."""
    x = jnp.linspace(-8.0, 8.0, 201)
    with plots.figure(
        report.folder / "sigmoid.png",
        size=(8.5, 2.8),
        title="The sigmoid's gradient is at most 1/4 and vanishes on both sides",
    ) as axes:
        axes.plot(x, jax.nn.sigmoid(x), label="sigmoid")
        axes.plot(x, sigmoid_gradient(x), "--", label="its gradient")
        axes.set(xlabel="input x", ylabel="value")
        axes.legend()


def show_products(config: Config, report: Report) -> dict[str, Any]:
    """Multiply 100 random 4 x 4 matrices, as the book does, at three scales."""
    ends = {}
    with plots.figure(
        report.folder / "products.png",
        size=(8.5, 3.2),
        title="Products of random 4 x 4 matrices: mean and deviation of 64 draws",
    ) as axes:
        for colour, std in zip(plots.COLOURS, (1.0, 0.5, 0.25), strict=False):
            keys = jax.random.split(jax.random.key(config.seed), 64)
            norms = jax.vmap(partial(product_log_norms, 100, 4, std))
            exponents = np.asarray(norms(key=keys)).T / np.log(10)
            label = f"entries from N(0, {std:g}²)"
            plots.band(axes, np.arange(1, 101), exponents, colour=colour, label=label)
            ends[f"N(0, {std:g}²)"] = exponents[-1].mean()
        axes.set(xlabel="matrices multiplied", ylabel="log₁₀ of the Frobenius norm")
        axes.legend()
    report.say(
        "norm of a product of 100 random 4 x 4 matrices, mean exponent of ten: "
        + ", ".join(f"{end:+.1f} for entries from {name}" for name, end in ends.items())
    )
    return ends


def show_signals(config: Config, data: Any, report: Report) -> dict[str, Any]:
    """Follow activations and gradients through the untrained networks."""
    size = {"width": config.width, "depth": config.depth}
    seeds = (config.seed, config.seeds)
    signals = {
        network: signal(network, data, keys=population.seed_keys(*seeds), **size)
        for network in WATCHED
    }
    panels = {
        "size": "activations, root mean square",
        "spread": "how they differ between images",
        "gradient": "gradient of the kernel, norm",
    }
    layers = np.arange(1, config.depth + 1)
    with plots.figure(
        report.folder / "signal.png",
        1,
        3,
        size=(8.5, 4.2),
        title=f"Before training, {config.depth} layers of {config.width} units "
        "(what is zero in float32 is not drawn)",
    ) as axes:
        for panel, (field, title) in zip(axes, panels.items(), strict=True):
            for network, (colour, dashes) in WATCHED.items():
                values = np.asarray(getattr(signals[network], field)).mean(axis=0)
                panel.plot(
                    layers,
                    np.where(values > 0, values, np.nan),  # float32 has no smaller
                    dashes,
                    color=plots.COLOURS[colour],
                    label=network.label,
                )
            panel.set(xlabel="layer", yscale="log", ylim=(1e-16, 1e12))
            panel.set_title(title, fontsize=9)
            panel.tick_params(labelleft=panel is axes[0])
        axes[0].set_ylabel("size")
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
        )
    return {
        network.label: {
            field: {"first": values[:, 0].mean(), "last": values[:, -1].mean()}
            for field, values in measured._asdict().items()
        }
        for network, measured in signals.items()
    }


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
