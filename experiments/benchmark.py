"""One epoch of the dropout MLP against the physical floor and against PyTorch.

The floor is the epoch's matrix products alone, at their own shapes. All rows are
timed in turn, round after round, so that a machine that drifts hurts all alike.
Rows with PyTorch need `pip install "ch4jax[torch]"` and are left out without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments import cli
from experiments.report import Report

HIDDEN = (256, 256)
RATES = (0.2, 0.5)
STD = 0.01
LEARNING_RATE = 0.5
BATCH_SIZE = 256


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the benchmark."""

    rounds: int = 5
    """Rounds that are counted, after one that warms up."""
    data: str = "auto"
    """full, mini (the shipped tenth), auto (full if it is there), or a folder."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


def matrix_products(num_rows: int) -> Callable[[], Any]:
    """Return the products of an epoch: three forward, five backward, each step."""
    import jax
    from jax import numpy as jnp

    x_key, *keys = jax.random.split(jax.random.key(0), 4)
    sizes = ((784, 256), (256, 256), (256, 10))
    weights = tuple(map(jax.random.normal, keys, sizes))
    x = jax.random.normal(x_key, (8, BATCH_SIZE, 784))
    steps = jnp.arange(-(-num_rows // BATCH_SIZE)) % len(x)

    @jax.jit
    def products(weights: Any, x: Any) -> Any:
        w1, w2, w3 = weights

        def step(_: Any, i: Any) -> Any:
            h1 = x[i] @ w1
            h2 = h1 @ w2
            out = h2 @ w3
            grad2 = out @ w3.T
            grad1 = grad2 @ w2.T
            # The weights' gradients are carried, so that no step can be skipped.
            return (x[i].T @ grad1, h1.T @ grad2, h2.T @ out), None

        return jax.lax.scan(step, weights, steps)[0]

    return lambda: products(weights, x)


def jax_epochs(data: Any) -> dict[str, Callable[[], Any]]:
    """Return the epoch in one scan, with and without dropout, and step by step."""
    import jax
    import numpy as np
    import optax

    from ch4jax import training
    from experiments.networks import flax_network, metrics_fn

    arrays = (data.train_images, data.train_labels)
    num_rows = len(data.train_images)
    optimizer = optax.sgd(LEARNING_RATE)
    works = {}
    for name, rates in (("dropout", RATES), ("no dropout", (0.0, 0.0))):
        network = flax_network(HIDDEN, rates, STD)
        metrics = metrics_fn(network)
        state = training.init_state(network.init(jax.random.key(0)), optimizer)
        works[f"JAX, scanned epoch, {name}"] = lambda state=state, metrics=metrics: (
            training.train_epoch(
                state,
                arrays,
                metrics_fn=metrics,
                optimizer=optimizer,
                batch_size=BATCH_SIZE,
                key=jax.random.key(1),
            )
        )
    network = flax_network(HIDDEN, RATES, STD)
    metrics = metrics_fn(network)
    step = jax.jit(training.train_step, static_argnames=("metrics_fn", "optimizer"))

    def step_by_step() -> Any:
        state = training.init_state(network.init(jax.random.key(0)), optimizer)
        order, real = training.batch_rows(num_rows, BATCH_SIZE, key=jax.random.key(1))
        for rows, here in zip(np.asarray(order), np.asarray(real), strict=True):
            batch = training.Batch(arrays[0][rows], arrays[1][rows], here)
            state, _ = step(
                state,
                batch,
                metrics_fn=metrics,
                optimizer=optimizer,
                key=jax.random.key(2),
            )
        return state

    return {**works, "JAX, step by step, dropout": step_by_step}


def torch_epochs(data: Any) -> dict[str, Callable[[], Any]]:
    """Return the epoch as the book has it, and with the tensors in memory."""
    import numpy as np
    import torch
    from torch import nn

    images = torch.tensor(np.asarray(data.train_images)).float().flatten(1) / 255
    labels = torch.tensor(np.asarray(data.train_labels)).long()
    net = nn.Sequential(
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Dropout(RATES[0]),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(RATES[1]),
        nn.Linear(256, 10),
    )
    sgd = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    dataset = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True)

    def train(batches: Any) -> None:
        for x, y in batches:
            loss = nn.functional.cross_entropy(net(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    def in_memory() -> None:
        order = torch.randperm(len(images)).split(BATCH_SIZE)
        train((images[rows], labels[rows]) for rows in order)

    return {
        "PyTorch, eager, tensors in memory, dropout": in_memory,
        "PyTorch, eager, DataLoader, dropout": lambda: train(loader),
    }


def run(config: Config, report: Report) -> None:
    """Time every row; print the table; write the summary."""
    import jax

    from ch4jax import timing
    from ch4jax.data import fashion_mnist

    data = fashion_mnist.load(config.data).on_device()
    report.begin(config)
    num_rows = len(data.train_images)
    works = {"matrix products alone": matrix_products(num_rows), **jax_epochs(data)}
    threads = None
    try:
        import torch

        works |= torch_epochs(data)
        threads = torch.get_num_threads()
    except ModuleNotFoundError:
        report.say("PyTorch is not installed: its rows are not run")
    report.say(
        f"one epoch of {num_rows:,} images, batches of {BATCH_SIZE}, float32, on "
        f"{jax.devices()[0].device_kind}, PyTorch threads: {threads}\n"
    )
    timings = timing.interleave(works, rounds=config.rounds)
    floor = timings["matrix products alone"].median
    report.table(
        ["", "first (s)", "median (s)", "fastest", "slowest", "x floor"],
        [
            [
                name,
                *(f"{seconds:.3f}" for seconds in row),
                f"{row.median / floor:.2f}",
            ]
            for name, row in timings.items()
        ],
    )
    report.say("first holds compiling; PyTorch runs on the CPU")
    report.finish(
        {
            "data": data.name,
            "threads": threads,
            "results": [
                {"name": name, **row._asdict(), "to_floor": row.median / floor}
                for name, row in timings.items()
            ],
        }
    )


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()
