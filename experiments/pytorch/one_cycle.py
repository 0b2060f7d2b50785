"""The recipes of `experiments.time_to_accuracy` in PyTorch."""

from itertools import pairwise

import torch
from torch import nn

from experiments.common.one_cycle import SMOOTHING, Recipe, Rows


class Runs:
    """Trains at each call, with the next seed, and notes the test accuracy."""

    def __init__(self, train: Rows, test: Rows, recipe: Recipe, threads: int) -> None:
        self.train, self.test = ([*map(torch.tensor, rows)] for rows in (train, test))
        self.recipe, self.threads = recipe, threads
        self.accuracies: list[float] = []

    def __call__(self) -> float:
        """Return the test accuracy of a run."""
        torch.manual_seed(len(self.accuracies))
        torch.set_num_threads(self.threads)
        (x, y), (test_x, test_y) = self.train, self.test
        layers: list[nn.Module] = []
        for sizes in pairwise(self.recipe.sizes):
            layers += [nn.Linear(*sizes), nn.GELU(approximate="tanh")]
        net = nn.Sequential(*layers[:-1])
        loss_fn = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        adam = torch.optim.Adam(net.parameters(), 1.0, fused=True)
        rate = self.recipe.schedule(len(x), min)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
        for _ in range(self.recipe.epochs):
            for rows in torch.randperm(len(x)).split(self.recipe.batch_size):
                adam.zero_grad()
                loss_fn(net(x[rows]), y[rows]).backward()
                adam.step()
                schedule.step()
        with torch.no_grad():
            right = net(test_x).argmax(dim=1) == test_y
        self.accuracies.append(right.double().mean().item())
        return self.accuracies[-1]
