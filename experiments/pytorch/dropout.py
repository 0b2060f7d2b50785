"""The dropout MLP (D2L 5.6) on both sides."""

from functools import partial
from typing import Any

import jax
import optax
import torch
from flax import linen as nn
from jax import numpy as jnp

from ch4jax import dropout, parameters
from experiments import networks
from experiments.pytorch import twins
from experiments.pytorch.images import (
    accuracy_outcome,
    classification,
    cross_entropy,
    torch_cross_entropy,
)
from experiments.pytorch.systems import Optimizers, System, torch_start


def systems(images: Any, hidden: tuple[int, int] = (256, 256)) -> list[System]:
    """Return the MLP of the dropout room, in Flax and from scratch.

    Both start from N(0, 0.01²), as the book's concise version does. The third starts
    from the default of PyTorch's Linear, as the book's own class does; independent runs
    are of that one, whose accuracy wavers less.
    """
    rates, std = (0.2, 0.5), 0.01
    model = dropout.DropoutMLP(hidden=hidden, rates=rates, std=std)

    def flax_masks(params: Any, rows: Any, *, key: Any) -> list[Any]:
        # Kernels of zero and biases of one make every activation 1 before it meets
        # its mask, so that what is zero after it was dropped.
        ones = parameters.reinitialize(
            params,
            {"*kernel": nn.initializers.zeros, "*bias": nn.initializers.ones},
            key=key,
        )
        _, state = model.apply(
            ones,
            rows,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda layer, _: isinstance(layer, nn.Dropout),
        )
        found = [state["intermediates"][f"Dropout_{i}"] for i in range(len(rates))]
        return [layer["__call__"][0] != 0 for layer in found]

    def scratch_masks(params: Any, rows: Any, *, key: Any) -> list[Any]:
        del params
        keys = [jax.random.fold_in(key, i) for i in range(len(rates))]
        return [
            dropout.dropout_layer(jnp.ones((len(rows), width)), rate, key=k) != 0
            for width, rate, k in zip(hidden, rates, keys, strict=True)
        ]

    def module(dropout: Any = torch.nn.Dropout) -> torch.nn.Module:
        network = twins.perceptron(hidden, rates, dropout=dropout)
        twins.init_normal(network, std)
        return network

    inputs, labels, score, torch_score = classification(images)

    def sgd(rate: float) -> Optimizers:
        return optax.sgd(rate), lambda m: torch.optim.SGD(m.parameters(), lr=rate)

    shared = {
        "data": (inputs, labels),
        "row_losses": cross_entropy,
        "module": module,
        "loss": torch_cross_entropy,
        "optimizers": {"SGD at 0.5": sgd(0.5), "SGD at 0.1": sgd(0.1)},
        "epochs": 10,
        "batch_size": 256,
    }

    def system(name: str, init: Any, network: Any, masks: Any) -> System:
        return System(
            f"dropout MLP, {name}",
            init=init,
            predict=network.logits,
            masks=masks,
            rates=rates,
            **shared,
        )

    flax, scratch = (make(hidden, rates, std) for make in networks.NETWORKS.values())
    shapes = jax.eval_shape(flax.init, jax.random.key(0))
    outcome = accuracy_outcome(
        partial(score, flax.logits),
        torch_score,
        runs=60,
        epochs=10,
        learning_rate=0.5,
        steps=10 * -(-len(labels) // 256),
    )
    default = system(
        "Linear's start", lambda key: torch_start(shapes, key=key), flax, flax_masks
    )
    return [
        system("Flax", flax.init, flax, flax_masks),
        system("scratch", scratch.init, scratch, scratch_masks),
        default._replace(
            module=partial(twins.perceptron, hidden, rates), outcome=outcome
        ),
    ]
