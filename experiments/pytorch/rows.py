"""What `experiments.benchmark` times on PyTorch's side, written plainly."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from experiments.benchmark_rows import (
    DROPOUT,
    HIDDEN,
    HOUSES,
    LEARNING_RATE,
    RATES,
    STD,
    SWEEP,
    Work,
)
from experiments.floors import BATCH_SIZE
from experiments.pytorch import twins

EAGER = "PyTorch, eager, in memory"


class Images(torch.utils.data.Dataset):
    """Images made numbers one by one, by way of Pillow, as torchvision does it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        """Return one image, shape (1, 28, 28) in [0, 1], and its class."""
        picture = Image.fromarray(self.images[i])
        pixels = torch.from_numpy(np.array(picture))[None]
        return pixels.to(torch.float32).div(255), int(self.labels[i])


def dropout_rows(data: Any, *, compile: bool) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP."""
    images = np.array(data.train_images)  # PyTorch wants them writable
    labels = np.array(data.train_labels)
    x = torch.tensor(images).float() / 255
    y = torch.tensor(labels).long()
    loader = torch.utils.data.DataLoader(
        Images(images, labels), BATCH_SIZE, shuffle=True
    )

    def in_memory() -> Any:
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            yield x[rows], y[rows]

    def train(batches: Any, *, call: Any = None, autocast: bool = False) -> Any:
        net = twins.perceptron(HIDDEN, RATES)
        twins.init_normal(net, STD)
        call = call(net) if call else net
        sgd = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)

        def epoch() -> None:
            for inputs, classes in batches():
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = cross_entropy(call(inputs), classes)
                sgd.zero_grad()
                loss.backward()
                sgd.step()

        return epoch

    epochs = {
        "PyTorch, eager, DataLoader": train(lambda: loader),
        EAGER: train(in_memory),
        "PyTorch, eager, bfloat16": train(in_memory, autocast=True),
    }
    if compile:
        epochs["PyTorch, torch.compile"] = train(in_memory, call=torch.compile)
    for name, epoch in epochs.items():
        yield Work(DROPOUT, name, epoch, len(x), "images")


def sweep_rows(data: Any, runs: int = 2) -> Iterator[Work]:
    """Yield runs of linear regression with an L2 penalty, one after the other."""
    x, y = (torch.tensor(np.asarray(array)) for array in data)

    def train(make: Any) -> None:
        for _ in range(runs):
            net = nn.Linear(x.shape[1], 1)
            nn.init.normal_(net.weight)
            decayed = {"params": [net.weight], "weight_decay": 3.0}
            optimizer = make([decayed, {"params": [net.bias], "weight_decay": 0.0}])
            for _ in range(100):
                for rows in torch.randperm(len(x)).split(5):
                    optimizer.zero_grad()
                    (mse_loss(net(x[rows]), y[rows]) / 2).backward()
                    optimizer.step()

    for name, make in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        yield Work(
            SWEEP,
            f"PyTorch, one by one, {name}",
            lambda make=make: train(lambda groups: make(groups, lr=0.003)),
            runs,
            "runs",
        )


def house_rows(x: Any, prices: Any, in_training: Any) -> Iterator[Work]:
    """Yield the five folds of the book's recipe: in a loop, and stacked."""
    inputs = torch.tensor(x, dtype=torch.float32)
    labels = torch.tensor(prices, dtype=torch.float32)
    rows_of = [torch.tensor(np.flatnonzero(rows)) for rows in in_training]
    others_of = [torch.tensor(np.flatnonzero(~rows)) for rows in in_training]

    def log_rmse(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        clamped = torch.clamp(predicted, 1, float("inf"))
        return mse_loss(clamped.log(), true.log()).sqrt()

    def loop() -> None:
        for rows, others in zip(rows_of, others_of, strict=True):
            net = nn.Linear(inputs.shape[1], 1)
            adam = torch.optim.Adam(net.parameters(), lr=5.0)
            for _ in range(100):
                for batch in rows[torch.randperm(len(rows))].split(64):
                    adam.zero_grad()
                    mse_loss(net(inputs[batch])[:, 0], labels[batch]).backward()
                    adam.step()
                with torch.no_grad():
                    for seen in (rows, others):
                        log_rmse(net(inputs[seen])[:, 0], labels[seen]).item()

    def stacked() -> None:
        count, width = len(rows_of), inputs.shape[1]
        bound = width**-0.5
        w = nn.Parameter(torch.empty(count, width, 1).uniform_(-bound, bound))
        b = nn.Parameter(torch.empty(count, 1, 1).uniform_(-bound, bound))
        adam = torch.optim.Adam([w, b], lr=5.0)
        length = len(rows_of[0])  # 1,168 in each of the five
        for _ in range(100):
            orders = torch.stack([rows[torch.randperm(length)] for rows in rows_of])
            for batch in orders.split(64, dim=1):
                adam.zero_grad()
                residuals = (inputs[batch] @ w + b)[..., 0] - labels[batch]
                residuals.square().mean(dim=1).sum().backward()
                adam.step()
            with torch.no_grad():
                for some in (rows_of, others_of):
                    seen = torch.stack(some)
                    log_rmse((inputs[seen] @ w + b)[..., 0], labels[seen]).item()

    yield Work(HOUSES, "PyTorch, fold by fold", loop, len(rows_of), "models")
    yield Work(HOUSES, "PyTorch, folds stacked", stacked, len(rows_of), "models")
