"""An MLP on Fashion-MNIST with and without dropout (D2L 5.6).

Without flags: the book's network, 784-256-256-10, in Flax, once with dropout rates
0.2 and 0.5 and once without; on the whole set, or on the shipped tenth where the
whole set is not to be had.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax import numpy as jnp

from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import CLASSES, to_float
from ch4jax.dropout import dropout_layer
from ch4jax.training import population
from experiments.common import cli, plots
from experiments.common.console import Report, count
from experiments.common.errors import UsageError
from experiments.common.loop import Fit, fit
from experiments.common.networks import NETWORKS, Network, metrics_fn

# At 0.5 the network stays at chance on 6,000 images, 200 epochs long.
RECIPES = {
    "full": {"learning_rate": 0.5, "epochs": 10},
    "mini": {"learning_rate": 0.1, "epochs": 120},
}


@dataclass(frozen=True)
class Config(cli.TrainingFlags):
    """Flags; the defaults are the book's."""

    rates: tuple[float, ...] = (0.2, 0.5)
    """Probability of dropping a unit, one for each hidden layer."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer."""
    std: float = 0.01
    """Standard deviation of the weights before training."""
    learning_rate: cli.OptionalFloat = None
    """Of plain SGD; if not given, 0.5 on the whole set and 0.1 on the tenth."""
    epochs: cli.OptionalInt = None
    """Passes over the data; if not given, 10 on the whole set, 120 on the tenth."""
    batch_size: int = 256
    """Rows in a batch."""
    impl: Literal["flax", "scratch", "both"] = "flax"
    """The Flax module, the functions from scratch, or one after the other."""
    seeds: int = 1
    """Networks trained at once, from the seeds SEED, SEED + 1, ..."""
    data: str = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""
    figures: bool = True
    """Draw curves and predictions."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        if not all(0.0 <= rate <= 1.0 for rate in self.rates):
            raise UsageError(f"--rates must be in [0, 1], got {self.rates}")
        if len(self.rates) != len(self.hidden):
            raise UsageError(
                f"--rates must be one for each of {len(self.hidden)} hidden layers, "
                f"got {len(self.rates)}: {self.rates}"
            )
        for width in self.hidden:
            cli.check_at_least_1("--hidden", width)
        cli.check_positive("--std", self.std)
        cli.check_positive("--learning-rate", self.learning_rate)
        cli.check_at_least_1("--epochs", self.epochs)
        cli.check_at_least_1("--batch-size", self.batch_size)
        cli.check_at_least_1("--seeds", self.seeds)


def settle(config: Config, data: Any) -> Config:
    """Fill in what depends on the data.

    Raises:
      UsageError: if a batch would hold more rows than there are.
    """
    rows = len(data.train_images)
    if config.batch_size > rows:
        raise UsageError(
            f"--batch-size must be at most the {rows:,} training images, "
            f"got {config.batch_size}"
        )
    recipe = RECIPES[data.name]
    given = {name: getattr(config, name) or value for name, value in recipe.items()}
    return replace(config, data=data.name, **given)


def train(
    config: Config, network: Network, data: Any, label: str, report: Report
) -> Fit:
    """Train `config.seeds` copies of `network` in one program, each with its key."""
    assert config.epochs is not None  # `settle` has filled them in
    assert config.learning_rate is not None
    seed_keys = population.seed_keys(config.seed, config.seeds)
    init_keys, keys = jax.vmap(jax.random.split, out_axes=1)(seed_keys)
    # One program: op by op, each op would be compiled.
    params = jax.jit(jax.vmap(network.init))(init_keys)
    optimizer = optax.sgd(config.learning_rate)
    return fit(
        report,
        label,
        population.init_states(params, optimizer),
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
        epochs=config.epochs,
        keys=keys,
        metrics_fn=metrics_fn(network),
        optimizer=optimizer,
        batch_size=config.batch_size,
    )


def summarise(fitted: Fit) -> dict[str, Any]:
    """Return means, and deviations where there are several seeds, for the summary.

    `train_loss` is the running mean of the last epoch, masks on, as the book draws it.
    The accuracies, their gap, and `final_train_loss` are those of the finished network
    with nothing dropped.
    """
    last = {name: values[-1] for name, values in fitted.history.items()}
    metrics = {
        "train_loss": last["train_loss"],
        "final_train_loss": fitted.final["loss"],
        "train_accuracy": fitted.final["accuracy"],
        "test_loss": last["test_loss"],
        "test_accuracy": last["test_accuracy"],
        "gap": fitted.final["accuracy"] - last["test_accuracy"],
    }
    summary: dict[str, Any] = {}
    for name, values in metrics.items():
        summary[name] = values.mean()
        summary[f"{name}_std"] = values.std(ddof=1) if values.size > 1 else None
    summary["compile_seconds"] = fitted.compile_seconds
    summary["epoch_seconds"] = fitted.epoch_seconds
    return summary


def run(config: Config, report: Report) -> None:
    """Show the layer, train each variant, tell, draw, and write the summary."""
    data = fashion_mnist.load(config.data)
    config = settle(config, data)
    report.begin(config)
    show_layer(config, report)
    show_setting(config, data, report)
    data = data.on_device()

    results, fits = [], {}
    for impl in impls(config):
        for rates in dict.fromkeys([config.rates, (0.0,) * len(config.rates)]):
            label = f"{impl}, {describe(rates)}"
            network = network_of(config, impl, rates)
            fits[label] = train(config, network, data, label, report)
            variant = {"impl": impl, "rates": rates, "seeds": config.seeds}
            results.append(variant | summarise(fits[label]))
    show_results(results, report)
    memory = report.peak_memory_mb()  # before the figures
    if config.figures:
        draw(config, data, fits, report)
    seconds = {
        "compile": sum(entry["compile_seconds"] for entry in results),
        "epoch": results[0]["epoch_seconds"],
        "total": report.seconds(),
    }
    report.finish(
        {
            "data": data.name,
            "seconds": seconds,
            "peak_memory_mb": memory,
            "results": results,
        }
    )


def network_of(config: Config, impl: str, rates: tuple[float, ...]) -> Network:
    """Return one implementation of the network of a variant."""
    return NETWORKS[impl](config.hidden, rates, config.std)


def impls(config: Config) -> tuple[str, ...]:
    """Return the implementations that were asked for."""
    return tuple(NETWORKS) if config.impl == "both" else (config.impl,)


def describe(rates: tuple[float, ...]) -> str:
    """Return the name of a variant."""
    return f"dropout {' '.join(map(str, rates))}" if any(rates) else "no dropout"


def show_layer(config: Config, report: Report) -> None:
    """Print what the layer does to the numbers 0 to 15 at three rates."""
    x = jnp.arange(16.0).reshape(2, 8)
    report.say(f"x =\n{x}")
    for rate in (0.0, 0.5, 1.0):
        y = dropout_layer(x, rate, key=jax.random.key(config.seed))
        report.say(f"dropout_layer(x, {rate}, key=key) =\n{y}")


def show_setting(config: Config, data: Any, report: Report) -> None:
    """Print the device, the data and the recipe."""
    device = jax.devices()[0]
    report.say(f"\ndevice: {device.platform} ({device.device_kind})")
    report.say(
        f"data: Fashion-MNIST, {data.name}, {len(data.train_images):,} training and "
        f"{len(data.test_images):,} test images from {data.folder}"
    )
    if data.name == "mini":
        report.say(
            "the shipped tenth has a recipe of its own: the book's learning rate of "
            "0.5 keeps the network at chance on so few images; --data full says where "
            "the whole set goes"
        )
    report.say(
        f"recipe: learning rate {config.learning_rate}, {config.epochs} epochs, "
        f"batches of {config.batch_size}, {count(config.seeds, 'seed')} from "
        f"{config.seed}\n"
    )


def show_results(results: list[dict[str, Any]], report: Report) -> None:
    """Print the closing table."""

    def cell(entry: dict[str, Any], name: str) -> str:
        spread = entry[f"{name}_std"]
        return f"{entry[name]:.3f}" + ("" if spread is None else f" ±{spread:.3f}")

    names = ("train_loss", "train_accuracy", "test_accuracy", "gap")
    report.table(
        ["", "train loss", "train acc.", "test acc.", "gap", "s/epoch", "compile"],
        [
            [
                f"{entry['impl']}, {describe(entry['rates'])}",
                *(cell(entry, name) for name in names),
                f"{entry['epoch_seconds']:.3f}",
                f"{entry['compile_seconds']:.2f}",
            ]
            for entry in results
        ],
    )
    report.say(
        "train loss: mean of the last epoch, masks on; accuracies: of the finished "
        "network, nothing dropped; s/epoch: all seeds together"
    )


def draw(config: Config, data: Any, fits: dict[str, Fit], report: Report) -> None:
    """Draw the curves of all variants, and predictions of the first."""
    title = (
        f"MLP on Fashion-MNIST ({data.name}), learning rate {config.learning_rate}, "
        f"mean of {count(config.seeds, 'seed')}"
    )
    histories = {label: fitted.history for label, fitted in fits.items()}
    plots.training_curves(report.folder / "curves.png", histories, title=title)

    label, fitted = next(iter(fits.items()))
    network = network_of(config, impls(config)[0], config.rates)
    first = jax.tree.map(lambda leaf: leaf[0], fitted.states.params)
    images, labels = data.test_images[:10], data.test_labels[:10]
    predicted = network.logits(first, to_float(images), key=None).argmax(axis=1)
    with plots.figure(
        report.folder / "predictions.png",
        1,
        len(images),
        size=(8.5, 1.5),
        title=f"{label}: true class above, prediction below",
    ) as panels:
        for axes, image, true, guess in zip(
            panels, np.asarray(images), labels, predicted, strict=True
        ):
            axes.imshow(image, cmap="gray_r")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_title(CLASSES[true], fontsize=8)
            colour = plots.COLOURS[2] if true == guess else plots.COLOURS[1]
            axes.set_xlabel(CLASSES[guess], fontsize=8, color=colour)


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
