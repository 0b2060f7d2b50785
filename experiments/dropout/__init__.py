"""An MLP on Fashion-MNIST with and without dropout (D2L 5.6).

Without flags: the book's network, 784-256-256-10, from scratch and then in Flax, each
with dropout rates 0.2 and 0.5 and without; on the whole set if this machine has it,
otherwise on the shipped tenth. From scratch, weights start as PyTorch's Linear draws
them, in Flax from N(0, 0.01²), both as in the book. On so many images dropout changes
little; the lesson that follows shows what it is for: few images with wrong labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import CLASSES, FashionMNIST, to_float
from ch4jax.dropout import dropout_layer
from ch4jax.training import population
from ch4jax.weight_decay import l2_sgd
from experiments.common import cli, loop, memorisation, plots, roofline
from experiments.common.console import count, say
from experiments.common.errors import UsageError
from experiments.common.loop import Trained
from experiments.common.networks import NETWORKS, Network, metrics_fn
from experiments.common.run_folder import RunFolder
from experiments.dropout import lesson, sweep

TrainSize = Annotated[
    int, cli.check("1 to 6,000, the shipped images", lambda size: 1 <= size <= 6000)
]


@dataclass(frozen=True)
class Config(cli.TrainingFlags):
    """Flags; the defaults are the book's."""

    rates: tuple[cli.Probability, ...] = (0.2, 0.5)
    """Probability of dropping a unit, one for each hidden layer."""
    hidden: tuple[cli.Count, ...] = (256, 256)
    """Width of each hidden layer."""
    std: cli.Positive = 0.01
    """Standard deviation of normal weights before training."""
    weight_decay: cli.From0 = 0.0
    """Coefficient of weight decay, as in PyTorch's SGD; biases do not decay."""
    learning_rate: cli.Positive = 0.5
    """Of plain SGD."""
    epochs: cli.Count = 10
    """Passes over the data."""
    batch_size: cli.Count = 256
    """Rows in a batch."""
    impl: Literal["both", "scratch", "flax"] = "both"
    """The functions from scratch, then the Flax module; or one of them."""
    init: Literal["book", "torch", "normal"] = "book"
    """Weights as PyTorch's Linear draws them, from N(0, STD²), or as in the book: the
    first from scratch, the second in Flax."""
    sweep: bool = False
    """Train at the rates 0, 0.1, ... 0.9 too, all at once, and draw what they do."""
    lesson: bool = True
    """Train on few images with wrong labels too, and show what dropout does there."""
    label_noise: cli.Probability = 0.3
    """Share of the lesson's labels that are drawn again, from all classes."""
    train_size: TrainSize = 3000
    """Images that each run of the lesson learns from, of the 6,000 shipped."""
    seeds: cli.Count = 1
    """Networks trained at once, from the seeds SEED, SEED + 1, ..."""
    data: cli.Source = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""
    figures: bool = True
    """Draw curves and predictions."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        if len(self.rates) != len(self.hidden):
            raise UsageError(
                f"--rates must be one for each of {len(self.hidden)} hidden layers, "
                f"got {len(self.rates)}: {self.rates}"
            )


def run(config: Config) -> None:
    """Show the layer, train each variant, print, draw, and write the summary."""
    data = fashion_mnist.load(config.data)
    cli.check_batch_size(config.batch_size, len(data.train_images))
    folder = RunFolder.create("dropout", config, {"data": data.name})
    show_layer(config)
    show_setting(config, data)

    optimizer = optax.sgd(config.learning_rate)
    if config.weight_decay:
        optimizer = l2_sgd(config.learning_rate, config.weight_decay)
    train = partial(
        loop.train,
        data=data,
        optimizer=optimizer,
        epochs=config.epochs,
        batch_size=config.batch_size,
        flags=config,
        folder=folder,
    )
    seed_keys = population.seed_keys(config.seed, config.seeds)
    results, networks, trained = {}, {}, {}
    impls = tuple(NETWORKS) if config.impl == "both" else (config.impl,)
    for impl in impls:
        for rates in dict.fromkeys([config.rates, (0.0,) * len(config.rates)]):
            dropped = f"dropout {' '.join(map(str, rates))}"
            label = f"{impl}, {dropped if any(rates) else 'no dropout'}"
            network = NETWORKS[impl](config.hidden, rates, std_of(impl, config))
            networks[label] = network
            trained[label] = train(
                label,
                jax.jit(jax.vmap(network.init)),  # op by op, each would be compiled
                metrics_fn=metrics_fn(network),
                seed_keys=jax.random.clone(seed_keys),
            )
            variant = {"impl": impl, "rates": rates, "seeds": config.seeds}
            results[label] = variant | summarise(trained[label])
    show_results(results, folder)
    memory = roofline.peak_memory_mb()  # before the figures
    if config.figures:
        draw_curves(config, data, trained, folder)
        draw_mistakes(data, networks, trained, folder)
    extra = {}
    if config.sweep:
        swept = train(
            "rates 0 to 0.9",
            jax.jit(sweep.init(config.hidden, std_of("scratch", config), config.seeds)),
            metrics_fn=memorisation.metrics,
            seed_keys=sweep.at_each_rate(jax.random.clone(seed_keys)),
        )
        extra["sweep"] = sweep.show(swept, config.seeds, folder)
    ends = (f"{cell(r, 'test_accuracy')} ({label})" for label, r in results.items())
    headline = f"Test accuracy: {', '.join(ends)}."
    if config.lesson and config.several:
        say("the lesson is left out: it is for one process")
    elif config.lesson:
        numbers = (config.label_noise, config.train_size)
        extra["lesson"], headline = lesson.show(config.seed, *numbers, folder)
    seconds = {
        "compile": sum(entry["compile_seconds"] for entry in results.values()),
        "epoch": next(iter(results.values()))["epoch_seconds"],
        "total": folder.seconds(),
    }
    folder.finish(
        {
            "data": data.name,
            "seconds": seconds,
            "peak_memory_mb": memory,
            "results": list(results.values()),
            **extra,
        },
        headline=headline,
    )


def std_of(impl: str, config: Config) -> float | None:
    """Return the deviation of the weights; None for those of PyTorch's Linear."""
    book = {"scratch": "torch", "flax": "normal"}[impl]
    init = book if config.init == "book" else config.init
    return None if init == "torch" else config.std


def summarise(trained: Trained) -> dict[str, Any]:
    """Return means, and deviations if there are several seeds, for the summary.

    `train_loss` is the running mean of the last epoch, masks on, as the book draws it.
    The accuracies, their gap, and `final_train_loss` are those of the trained network
    with nothing dropped.
    """
    last = {name: values[-1] for name, values in trained.history.items()}
    metrics = {
        "train_loss": last["train_loss"],
        "final_train_loss": trained.final["loss"],
        "train_accuracy": trained.final["accuracy"],
        "test_loss": last["test_loss"],
        "test_accuracy": last["test_accuracy"],
        "gap": trained.final["accuracy"] - last["test_accuracy"],
    }
    summary: dict[str, Any] = {}
    for name, values in metrics.items():
        summary[name] = values.mean()
        summary[f"{name}_std"] = values.std(ddof=1) if values.size > 1 else None
    summary["compile_seconds"] = trained.compile_seconds
    summary["epoch_seconds"] = trained.epoch_seconds
    return summary


def show_layer(config: Config) -> None:
    """Print what the layer does to the numbers 0 to 15 at three rates."""
    x = jnp.arange(16.0).reshape(2, 8)
    say(f"x =\n{x}")
    for rate in (0.0, 0.5, 1.0):
        y = dropout_layer(x, rate, key=jax.random.key(config.seed))
        say(f"dropout_layer(x, {rate}, key=key) =\n{y}")


def show_setting(config: Config, data: FashionMNIST) -> None:
    """Print the device, the data, the hyperparameters and the start."""
    device = jax.devices()[0]
    say(f"\ndevice: {device.platform} ({device.device_kind})")
    say(
        f"data: Fashion-MNIST, {data.name}, {len(data.train_images):,} training and "
        f"{len(data.test_images):,} test images from {data.folder}"
    )
    if data.name == "mini":
        say("this is the shipped tenth; --data full downloads the whole set")
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    say(
        f"learning rate {config.learning_rate}{decay}, "
        f"{count(config.epochs, 'epoch')}, batches of {config.batch_size}, "
        f"{count(config.seeds, 'seed')} from {config.seed}"
    )
    starts = {
        impl: "PyTorch's Linear" if std is None else f"N(0, {std:g}²)"
        for impl in NETWORKS
        if config.impl in ("both", impl)
        for std in [std_of(impl, config)]
    }
    say(f"weights start as: {', '.join(f'{v} ({k})' for k, v in starts.items())}\n")


def cell(entry: Mapping[str, Any], name: str) -> str:
    """Return a mean, with its deviation if there is one."""
    spread = entry[f"{name}_std"]
    return f"{entry[name]:.3f}" + ("" if spread is None else f" ±{spread:.3f}")


def show_results(results: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> None:
    """Print the closing table."""
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    folder.table(
        ["", "train loss", "train acc.", "test loss", "test acc.", "s/epoch"],
        [
            [
                label,
                *(cell(entry, name) for name in names),
                f"{entry['epoch_seconds']:.3f}",
            ]
            for label, entry in results.items()
        ],
    )
    say(
        "train loss: mean of the last epoch, masks on; the others: of the trained "
        "network, nothing dropped; s/epoch: all seeds together"
    )


def draw_curves(
    config: Config,
    data: FashionMNIST,
    trained: Mapping[str, Trained],
    folder: RunFolder,
) -> None:
    """Draw loss and accuracy of every variant against the epoch."""
    histories = {label: result.history for label, result in trained.items()}
    ends = [of["test_accuracy"][-1].mean() for of in histories.values()]
    with folder.figure(
        "curves.png",
        columns=2,
        size=(8.5, 3.8),
        title=f"On {len(data.train_labels):,} images the test accuracies end between "
        f"{min(ends):.3f} and {max(ends):.3f}",
        caption="What dropout costs in training, and what it does to the gap between "
        f"training and test; mean of {count(config.seeds, 'seed')}.",
        alt="Two line charts against the epoch, one colour for the network with and "
        "one for the network without dropout: on the left the training loss on a "
        "logarithmic scale, on the right training accuracy, dotted, and test accuracy, "
        "solid. If there are several seeds a band is one standard deviation.",
    ) as (loss, accuracy):
        for i, (label, history) in enumerate(histories.items()):
            epochs = np.arange(1, config.epochs + 1)
            plots.band(loss, epochs, history["train_loss"], label=label)
            for split, dashes in (("train", ":"), ("test", "-")):
                line = {"color": plots.COLOURS[i], "linestyle": dashes}
                plots.band(accuracy, epochs, history[f"{split}_accuracy"], **line)
        loss.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
        loss.yaxis.set_major_formatter("{x:.2g}")
        loss.yaxis.set_minor_formatter("{x:.2g}")
        accuracy.set(xlabel="epoch", ylabel="accuracy")
        for axes in (loss, accuracy):
            axes.xaxis.get_major_locator().set_params(integer=True)
        loss.figure.legend(loc="outside lower center", ncols=2)
        for dashes, words in ((":", "training, masks on"), ("-", "test")):
            accuracy.plot([], [], color="0.3", linestyle=dashes, label=words)
        accuracy.legend(loc="lower right")


def draw_mistakes(
    data: FashionMNIST,
    networks: Mapping[str, Network],
    trained: Mapping[str, Trained],
    folder: RunFolder,
) -> None:
    """Draw the first test images that the first network takes for something else."""
    label = next(iter(networks))
    params = jax.tree.map(lambda leaf: leaf[0], trained[label].states.params)
    images, labels = data.test_images[:1000], data.test_labels[:1000]
    logits = networks[label].logits(params, to_float(jnp.asarray(images)), key=None)
    guesses = np.asarray(logits.argmax(axis=1))
    wrong = np.flatnonzero(guesses != labels)[:10]
    with folder.figure(
        "predictions.png",
        columns=10,
        size=(8.5, 1.5),
        title=f"{label}: the first mistakes; true class above, prediction below",
        caption="The first ten test images that the network gets wrong: the true class "
        "above, the predicted one below.",
        alt="A row of ten grey pictures of clothes, each with its true class above "
        "and the predicted class below.",
    ) as panels:
        for axes in panels:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, i in zip(panels, wrong, strict=False):
            axes.imshow(images[i], cmap="gray_r")
            axes.set_title(CLASSES[labels[i]], fontsize=8)
            axes.set_xlabel(CLASSES[guesses[i]], fontsize=8, color=plots.COLOURS[1])
