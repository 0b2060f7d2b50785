"""The recipe of `experiments.time_to_accuracy` in PyTorch."""

import numpy as np
import torch
from jax.typing import ArrayLike
from torch.nn.functional import cross_entropy

from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.common import one_cycle
from experiments.pytorch import twins


class Runs:
    """Trains at each call, with the next seed, and notes the test accuracy."""

    def __init__(self, data: FashionMNIST, threads: int) -> None:
        self.threads = threads
        self.accuracies: list[float] = []
        self.train = _tensors(data.train_images, data.train_labels)
        self.test = _tensors(data.test_images, data.test_labels)

    def __call__(self) -> float:
        """Return the test accuracy of a run."""
        torch.manual_seed(len(self.accuracies))
        torch.set_num_threads(self.threads)
        x, y = self.train
        net = twins.perceptron([one_cycle.HIDDEN], [0.0])
        adam = torch.optim.Adam(net.parameters(), 1.0, fused=True)
        rate = one_cycle.schedule(len(x), min)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
        for _ in range(one_cycle.EPOCHS):
            for rows in torch.randperm(len(x)).split(one_cycle.BATCH_SIZE):
                adam.zero_grad()
                cross_entropy(net(x[rows]), y[rows]).backward()
                adam.step()
                schedule.step()
        net.eval()
        with torch.no_grad():
            right = net(self.test[0]).argmax(dim=1) == self.test[1]
        self.accuracies.append(right.double().mean().item())
        return self.accuracies[-1]


def _tensors(images: ArrayLike, labels: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor(np.array(images)).float() / 255
    return x, torch.tensor(np.array(labels)).long()
