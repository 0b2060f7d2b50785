"""Why deep networks need good initialisation, and what else helps (D2L 5.4, 6.3).

Without flags: the initialisers, the sigmoid's gradient, a product of 100 random
matrices, the symmetry of a constant start, and the signal in perceptrons of 30 hidden
layers; then each of them trained on the shipped tenth of Fashion-MNIST.

Measured with seeds 0 to 2: test accuracy after 20 epochs, mean (and worst seed).
Sigmoid, ReLU from N(0, 0.01²), and the latter with layer norm, whose gradient is 350
times larger in the first layer than in the last, stay at chance, 0.100. He with ReLU
reaches 0.789 (0.782), Xavier with tanh 0.790 (0.778), residual 0.801 (0.799), sigmoid
with layer norm 0.823 (0.813). At a learning rate of 0.2 He diverges; clipped by norm
it reaches 0.784 (0.768), by value 0.787 (0.779). From N(0, 0.3²) clipping prevents
the divergence, but rescues no seed: 0.321 (0.100).
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from ch4jax.data import fashion_mnist
from ch4jax.initialization import product_log_norms, sigmoid_gradient
from experiments.common import cli, plots
from experiments.common.console import say
from experiments.common.run_folder import RunFolder
from experiments.initialization.networks import INITIALIZERS, WATCHED, Setting, signal
from experiments.initialization.remedies import show_remedies, show_symmetry


@dataclass(frozen=True)
class Config(cli.TrainingFlags):
    """Flags; what the remedies are claimed to do is claimed for the defaults."""

    epochs: cli.Count = 20
    """Passes over the data for each network."""
    depth: cli.Count = 30
    """Hidden layers."""
    width: cli.Count = 64
    """Units of each hidden layer."""
    seeds: cli.Count = 3
    """Networks of each kind trained at once, from the seeds SEED, SEED + 1, ..."""


def run(config: Config) -> None:
    """Show each phenomenon, train what fails beside its remedies, and draw."""
    data = fashion_mnist.load("mini")
    folder = RunFolder.create("initialization", config)
    setting = Setting(
        data, config.width, config.depth, config.epochs, config.seeds, config, folder
    )
    show_initializers(config.seed, folder)
    draw_sigmoid(folder)
    products = show_products(config.seed, folder)
    signals = draw_signals(setting)
    symmetry = show_symmetry(setting)
    remedies = show_remedies(setting)
    trained = (result for result in remedies if not result["diverged"])
    scores = sorted((r["test_accuracy"].mean(), r["recipe"]) for r in trained)
    worst, best = (f"{score:.3f} ({name})" for score, name in (scores[0], scores[-1]))
    folder.finish(
        {
            "products": products,
            "signals": signals,
            "symmetry": symmetry,
            "remedies": remedies,
        },
        headline=f"Test accuracy from {worst} to {best}.",
    )


def show_initializers(seed: int, folder: RunFolder) -> None:
    """Print what each initialiser draws for a layer with 256 inputs, 128 outputs."""
    rows = []
    for i, (name, init) in enumerate(INITIALIZERS.items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        w = np.asarray(init(key, (256, 128)))
        numbers = (w.mean(), w.std(), w.min(), w.max())
        rows.append([name, *(f"{n:.4f}" for n in numbers), f"{(w == 0).mean():.1%}"])
    columns = ["", "mean", "deviation", "least", "largest", "zeros"]
    folder.table(columns, rows, title="Initialisers, 256 inputs and 128 outputs")


def draw_sigmoid(folder: RunFolder) -> None:
    """Draw the sigmoid and its gradient."""
    x = jnp.linspace(-8.0, 8.0, 201)
    with folder.figure(
        "sigmoid.png",
        size=(8.5, 2.8),
        title="The sigmoid's gradient is at most 1/4 and vanishes on both sides",
        caption="At most a quarter of the gradient passes through each sigmoid.",
        alt="Line chart of the sigmoid, which rises from 0 to 1, and of its gradient, "
        "a bump of height 0.25 around zero, for inputs from -8 to 8.",
    ) as axes:
        axes.plot(x, jax.nn.sigmoid(x), label="sigmoid")
        axes.plot(x, sigmoid_gradient(x), "--", label="its gradient")
        axes.set(xlabel="input x", ylabel="value")
        axes.legend()


def show_products(seed: int, folder: RunFolder) -> dict[str, float]:
    """Multiply 100 random 4 x 4 matrices, as the book does, at three scales."""
    ends = {}
    with folder.figure(
        "products.png",
        size=(8.5, 3.2),
        title="A product of 100 matrices explodes or vanishes unless their scale "
        "is right",
        caption="What a hundred layers do to a signal: random 4 x 4 matrices, mean and "
        "standard deviation of 64 draws.",
        alt="Line chart of the decimal logarithm of the norm of a product of random "
        "matrices against their number, from 1 to 100, a line with a band for each of "
        "three standard deviations of the entries.",
    ) as axes:
        for std in (1.0, 0.5, 0.25):
            keys = jax.random.split(jax.random.key(seed), 64)
            norms = jax.vmap(partial(product_log_norms, 100, 4, std))
            exponents = np.asarray(norms(key=keys)).T / np.log(10)
            label = f"entries from N(0, {std:g}²)"
            plots.band(axes, np.arange(1, 101), exponents, label=label)
            ends[f"N(0, {std:g}²)"] = exponents[-1].mean()
        axes.set(xlabel="matrices multiplied", ylabel="log₁₀ of the Frobenius norm")
        axes.legend()
    say(
        "norm of a product of 100 random 4 x 4 matrices, mean exponent of ten: "
        + ", ".join(f"{end:+.1f} for entries from {name}" for name, end in ends.items())
    )
    return ends


def draw_signals(setting: Setting) -> dict[str, dict[str, dict[str, float]]]:
    """Follow activations and gradients through the untrained networks."""
    signals = {variant: signal(variant, setting) for variant in WATCHED}
    panels = {
        "size": "activations, root mean square",
        "spread": "how they differ between images",
        "gradient": "gradient of the kernel, norm",
    }
    layers = np.arange(1, setting.depth + 1)
    with setting.folder.figure(
        "signal.png",
        columns=3,
        size=(8.5, 4.2),
        title="Before training, signals vanish or explode unless the start is right",
        caption=f"What reaches the last of {setting.depth} layers, and what comes back "
        "to the first; below 1e-16 is drawn there.",
        alt="Three line charts against the layer, a line for each of eight networks, "
        "on a logarithmic scale: the size of the activations, how much they differ "
        "between images, and the norm of the gradient.",
    ) as axes:
        for panel, (field, title) in zip(axes, panels.items(), strict=True):
            for variant, (colour, dashes) in WATCHED.items():
                values = np.asarray(getattr(signals[variant], field)).mean(axis=0)
                line = {"color": plots.COLOURS[colour], "label": variant.label}
                panel.plot(layers, np.maximum(values, 1e-16), dashes, **line)
            panel.set(xlabel="layer", yscale="log", ylim=(1e-18, 1e12))
            panel.set_title(title, fontsize=9)
            panel.tick_params(labelleft=panel is axes[0])
        axes[0].set_ylabel("size")
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
        )
    return {
        variant.label: {
            field: {"first": values[:, 0].mean(), "last": values[:, -1].mean()}
            for field, values in measured._asdict().items()
        }
        for variant, measured in signals.items()
    }
