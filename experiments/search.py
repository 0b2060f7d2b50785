"""Search learning rate, decay and dropout on images: by halving, and the whole grid.

256 settings of the dropout MLP with Adam learn 1,000 images of the shipped tenth for 27
epochs. A setting is as good as its lowest loss on 1,000 other images, as with early
stopping. Successive halving stops those that fall behind; the whole grid trains all to
the end. The two choices train again from eight seeds, to be compared by their lowest
loss on the test images.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from ch4jax import training
from ch4jax.data import fashion_mnist
from ch4jax.data.fashion_mnist import CLASSES
from ch4jax.dropout import init_mlp
from ch4jax.training import Data, TrainState, halving, population
from ch4jax.weight_decay import kernel_mask
from experiments.common import cli, memorisation, timing
from experiments.common.run_folder import RunFolder

LEARNING_RATES = np.logspace(-4.5, -1.5, 16)
DECAYS = (0.0, 0.03, 0.3, 3.0)
RATES = ((0.0, 0.0), (0.2, 0.5), (0.5, 0.5), (0.5, 0.8))
HIDDEN = (128, 128)
ROWS, VALID_ROWS = 1000, 1000
BATCH_SIZE = 128
WAYS = {"halving": (3, 9, 27), "whole grid": (27,)}  # epochs
SEEDS = 8


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the search."""


class Candidate(NamedTuple):
    """What is searched, and what is random.

    Attributes:
      learning_rate: of Adam.
      decay: weight decay of the kernels, decoupled.
      rates: probability of dropping a unit, for each hidden layer.
      key: of the parameters, the batches and the masks.
    """

    learning_rate: Float[Array, "*candidates"]
    decay: Float[Array, "*candidates"]
    rates: Float[Array, "*candidates layers"]
    key: Key[Array, "*candidates"]


def run(config: Config) -> None:
    """Search twice, train what was chosen again, and compare."""
    folder = RunFolder.create("search", config)
    data = fashion_mnist.load("mini")
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    train = images[:ROWS], labels[:ROWS]
    valid = images[ROWS:][:VALID_ROWS], labels[ROWS:][:VALID_ROWS]
    test = jnp.asarray(data.test_images), jnp.asarray(data.test_labels)
    settings = list(itertools.product(LEARNING_RATES, DECAYS, RATES))
    # In an order that says nothing: those that come first meet few rivals.
    np.random.default_rng(config.seed).shuffle(settings)
    found, seconds, chosen = {}, {}, {}
    for name, rungs in WAYS.items():
        arrays = candidates(settings, [config.seed] * len(settings)), train, valid
        program, _ = timing.compile(losses, *arrays, rungs=rungs)
        result, seconds[name] = timing.timed(partial(program, *arrays))
        found[name] = np.asarray(result)
        chosen[name] = settings[int(np.nanargmin(found[name][:, -1]))]
    seeds = [config.seed + 1 + i for i in range(SEEDS)]
    both = [setting for setting in chosen.values() for _ in seeds]
    again = losses(candidates(both, seeds * 2), train, test, rungs=WAYS["whole grid"])
    tested = dict(zip(WAYS, np.asarray(again).reshape(2, SEEDS), strict=True))
    rows = [
        {
            "name": name,
            "seconds": seconds[name],
            "epochs": epochs_trained(found[name], WAYS[name]),
            **dict(zip(("learning_rate", "decay", "rates"), chosen[name], strict=True)),
            "valid_loss": float(np.nanmin(found[name][:, -1])),
            "test_loss": float(tested[name].mean()),
        }
        for name in WAYS
    ]
    folder.table(
        ["", "s", "epochs", "rate", "decay", "dropout", "valid loss", "test loss"],
        [
            [
                row["name"],
                f"{row['seconds']:.1f}",
                f"{row['epochs']:,}",
                f"{row['learning_rate']:.2g}",
                f"{row['decay']:g}",
                " ".join(map(str, row["rates"])),
                f"{row['valid_loss']:.4f}",
                f"{row['test_loss']:.4f}",
            ]
            for row in rows
        ],
        f"{len(settings)} settings; test loss: mean of {SEEDS} seeds",
    )
    difference = tested["halving"] - tested["whole grid"]
    error = float(difference.std(ddof=1) / math.sqrt(SEEDS))
    share = seconds["halving"] / seconds["whole grid"]
    folder.finish(
        {
            "ways": rows,
            "time_over_whole_grid": share,
            "test_loss_difference": float(difference.mean()),
            "standard_error": error,
        },
        headline=f"Halving took {share:.2f} times as long as the whole grid; the test "
        f"loss of its choice differs by {difference.mean():+.4f} ± {error:.4f}.",
    )


def candidates(
    settings: Sequence[tuple[float, float, tuple[float, ...]]],
    seeds: Sequence[int],
) -> Candidate:
    """Return settings, each with the key of its seed, as arrays."""
    learning_rate, decay, rates = map(jnp.array, zip(*settings, strict=True))
    keys = jax.vmap(jax.random.key)(np.array(seeds).astype(np.uint32))
    return Candidate(learning_rate, decay, rates, keys)


def epochs_trained(
    found: Float[np.ndarray, "candidates rungs"], rungs: tuple[int, ...]
) -> int:
    """Return the epochs of all candidates together.

    >>> epochs_trained(np.array([[0.1, 0.2], [0.3, np.nan]]), (1, 3))
    4
    """
    reached = (~np.isnan(found)).sum(axis=1)
    return int(np.array(rungs)[reached - 1].sum())


@partial(jax.jit, static_argnames="rungs")
def losses(
    candidates: Candidate, train: Data, valid: Data, *, rungs: tuple[int, ...]
) -> Float[Array, "candidates rungs"]:
    """Return the lowest losses on `valid`, in nats, of training on `train`.

    See `halving.search`; a unit is an epoch.
    """

    def adam(
        learning_rate: float | Array, weight_decay: float | Array
    ) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, weight_decay=weight_decay, mask=kernel_mask)

    optimizer = optax.inject_hyperparams(adam)(learning_rate=0.0, weight_decay=0.0)

    def start(candidate: Candidate) -> tuple[TrainState, Array]:
        sizes = (train[0][0].size, *HIDDEN, len(CLASSES))
        init_key = jax.random.fold_in(candidate.key, 0)
        layers = init_mlp(sizes, std=memorisation.STD, key=init_key)
        params = {"layers": layers, "rates": candidate.rates}
        state = optax.tree.set(
            training.init_state(params, optimizer),
            learning_rate=candidate.learning_rate,
            weight_decay=candidate.decay,
        )
        return state, jnp.array(jnp.inf)

    def advance(
        candidate: Candidate, run: tuple[TrainState, Array]
    ) -> tuple[tuple[TrainState, Array], Array]:
        state, lowest = run
        state, _ = training.train_epoch(
            state,
            train,
            metrics_fn=memorisation.metrics,
            optimizer=optimizer,
            batch_size=BATCH_SIZE,
            key=jax.random.fold_in(candidate.key, 1),
        )
        tested = training.evaluate(state.params, valid, metrics_fn=memorisation.metrics)
        lowest = jnp.minimum(lowest, tested["loss"])
        return (state, lowest), lowest

    params = jax.eval_shape(jax.vmap(start), candidates)[0].params
    return halving.search(
        candidates,
        start=start,
        advance=advance,
        rungs=rungs,
        slots=population.group_size(params, jax.default_backend()) or 64,
    )


if __name__ == "__main__":
    cli.main(Config, run)
