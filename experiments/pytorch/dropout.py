"""The dropout MLP (D2L 5.6) on both sides."""

from functools import partial
from typing import Any

import jax
import torch
from flax import linen as nn
from jax import numpy as jnp

from ch4jax import dropout, parameters
from experiments.common import networks
from experiments.pytorch import twins
from experiments.pytorch.images import classifier
from experiments.pytorch.systems import System, sgd, torch_start


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

    def system(name: str, init: Any, network: Any, masks: Any) -> System:
        found = classifier(
            f"dropout MLP, {name}",
            images,
            init=init,
            predict=network.logits,
            module=module,
            learning_rate=0.5,
            batch_size=256,
            runs=60,
        )
        return found._replace(
            optimizers={"SGD at 0.5": sgd(0.5), "SGD at 0.1": sgd(0.1)},
            epochs=10,
            masks=masks,
            rates=rates,
        )

    flax, scratch = (make(hidden, rates, std) for make in networks.NETWORKS.values())
    shapes = jax.eval_shape(flax.init, jax.random.key(0))
    default = system(
        "Linear's start", lambda key: torch_start(shapes, key=key), flax, flax_masks
    )
    return [
        system("Flax", flax.init, flax, flax_masks)._replace(outcome=None),
        system("scratch", scratch.init, scratch, scratch_masks)._replace(outcome=None),
        default._replace(module=partial(twins.perceptron, hidden, rates)),
    ]
