"""The dropout MLP (D2L 5.6) on both sides."""

from functools import partial

import jax
from torch import nn

from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.common.networks import NETWORKS
from experiments.pytorch import twins
from experiments.pytorch.images import classifier, cross_entropy
from experiments.pytorch.systems import Ours, System, sgd, torch_start

RATES = (0.2, 0.5)
STD = 0.01


def classify(impl: str, hidden: tuple[int, int]) -> Ours:
    """Return our side, from Flax or from scratch."""
    network = NETWORKS[impl](hidden, RATES, STD)
    return Ours(
        network.init,
        lambda params, x, key: network.logits(params, x, key=key),
        cross_entropy,
    )


def systems(images: FashionMNIST, hidden: tuple[int, int] = (256, 256)) -> list[System]:
    """Return the MLP in Flax and from scratch, both from N(0, 0.01²) as in the book.

    The third has the default start of PyTorch's Linear, as the book's own class has;
    independent runs are of that one, whose accuracy wavers less.
    """
    default = partial(twins.perceptron, hidden, RATES)

    def normal() -> nn.Module:
        return twins.init_normal(default(), STD)

    ours, scratch = (classify(impl, hidden) for impl in ("flax", "scratch"))
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    linear = ours._replace(init=lambda key: torch_start(shapes, key=key))
    return [
        classifier(
            f"dropout MLP, {name}",
            images,
            side,
            module,
            learning_rate=0.5,
            batch_size=256,
            runs=runs,
        )._replace(
            optimizers={"SGD at 0.5": sgd(0.5), "SGD at 0.1": sgd(0.1)}, epochs=10
        )
        for name, side, module, runs in (
            ("Flax", ours, normal, 0),
            ("scratch", scratch, normal, 0),
            ("Linear's start", linear, default, 60),
        )
    ]
