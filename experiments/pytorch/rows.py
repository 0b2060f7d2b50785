"""What `experiments.benchmark` times on PyTorch's side, written plainly.

On the kind of device that JAX computes on, or not at all.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from experiments.benchmark.rows import (
    DROPOUT,
    HIDDEN,
    HOUSES,
    LEARNING_RATE,
    RATES,
    STD,
    SWEEP,
    Work,
)
from experiments.common.roofline import BATCH_SIZE
from experiments.pytorch import twins
from experiments.pytorch.memory import peak_mb

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


def device_for(platform: str) -> torch.device | None:
    """Return PyTorch's device of the kind that JAX calls `platform`, None without.

    On a GPU, products may round to TF32, as JAX's do unless they are told otherwise.
    """
    if platform == "cpu":
        return torch.device("cpu")
    if platform == "gpu" and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        return torch.device("cuda")
    return None


def finished(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return `work` that returns when the device has done it."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def dropout_rows(data: Any, device: torch.device, *, compile: bool) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP."""
    images = np.array(data.train_images)  # PyTorch wants them writable
    labels = np.array(data.train_labels)
    x = (torch.tensor(images).float() / 255).to(device)
    y = torch.tensor(labels).long().to(device)
    loader = torch.utils.data.DataLoader(
        Images(images, labels), BATCH_SIZE, shuffle=True
    )

    def in_memory() -> Any:
        for rows in torch.randperm(len(x), device=device).split(BATCH_SIZE):
            yield x[rows], y[rows]

    def loaded() -> Any:
        for inputs, classes in loader:
            yield inputs.to(device), classes.to(device)

    def train(
        name: str, batches: Any, *held: Any, call: Any = None, autocast: bool = False
    ) -> Work:
        net = twins.perceptron(HIDDEN, RATES).to(device)
        twins.init_normal(net, STD)
        call = call(net) if call else net
        sgd = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)

        def epoch(steps: int | None = None) -> None:
            for inputs, classes in islice(batches(), steps):
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    loss = cross_entropy(call(inputs), classes)
                sgd.zero_grad()
                loss.backward()
                sgd.step()

        def memory() -> float:
            net.zero_grad()
            return peak_mb(partial(epoch, 3), [*net.parameters(), *held], device)

        run = finished(epoch, device)
        return Work(DROPOUT, name, run, len(x), "images", memory=memory)

    packed = torch.from_numpy(images), torch.from_numpy(labels)
    yield train("PyTorch, eager, DataLoader", loaded, *packed)
    yield train(EAGER, in_memory, x, y)
    yield train("PyTorch, eager, bfloat16", in_memory, x, y, autocast=True)
    if compile:
        yield train("PyTorch, torch.compile", in_memory, x, y, call=torch.compile)


def sweep_rows(data: Any, device: torch.device, runs: int = 2) -> Iterator[Work]:
    """Yield runs of linear regression with an L2 penalty, one after the other."""
    x, y = (torch.tensor(np.asarray(array)).to(device) for array in data)

    def train(make: Any, runs: int = runs, epochs: int = 100) -> None:
        for _ in range(runs):
            net = nn.Linear(x.shape[1], 1, device=device)
            nn.init.normal_(net.weight)
            decayed = {"params": [net.weight], "weight_decay": 3.0}
            optimizer = make([decayed, {"params": [net.bias], "weight_decay": 0.0}])
            for _ in range(epochs):
                for rows in torch.randperm(len(x), device=device).split(5):
                    optimizer.zero_grad()
                    (mse_loss(net(x[rows]), y[rows]) / 2).backward()
                    optimizer.step()

    for name, make in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        run = partial(train, partial(make, lr=0.003))
        yield Work(
            SWEEP,
            f"PyTorch, one by one, {name}",
            finished(run, device),
            runs,
            "runs",
            memory=partial(peak_mb, partial(run, 1, 1), [x, y], device),
        )


def house_rows(
    x: Any, prices: Any, in_training: Any, device: torch.device
) -> Iterator[Work]:
    """Yield the five folds of the book's recipe: in a loop, and stacked."""
    inputs = torch.tensor(x, dtype=torch.float32).to(device)
    labels = torch.tensor(prices, dtype=torch.float32).to(device)
    rows_of = [torch.tensor(np.flatnonzero(r)).to(device) for r in in_training]
    others_of = [torch.tensor(np.flatnonzero(~r)).to(device) for r in in_training]

    def shuffled(rows: torch.Tensor) -> torch.Tensor:
        return rows[torch.randperm(len(rows), device=device)]

    def log_rmse(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        clamped = torch.clamp(predicted, 1, float("inf"))
        return mse_loss(clamped.log(), true.log()).sqrt()

    def loop(epochs: int = 100) -> None:
        for rows, others in zip(rows_of, others_of, strict=True):
            net = nn.Linear(inputs.shape[1], 1, device=device)
            adam = torch.optim.Adam(net.parameters(), lr=5.0)
            for _ in range(epochs):
                for batch in shuffled(rows).split(64):
                    adam.zero_grad()
                    mse_loss(net(inputs[batch])[:, 0], labels[batch]).backward()
                    adam.step()
                with torch.no_grad():
                    for seen in (rows, others):
                        log_rmse(net(inputs[seen])[:, 0], labels[seen]).item()

    def stacked(epochs: int = 100) -> None:
        count, width = len(rows_of), inputs.shape[1]
        bound = width**-0.5
        w = torch.empty(count, width, 1, device=device).uniform_(-bound, bound)
        b = torch.empty(count, 1, 1, device=device).uniform_(-bound, bound)
        adam = torch.optim.Adam([w.requires_grad_(), b.requires_grad_()], lr=5.0)
        for _ in range(epochs):
            # Of one size, since five divides the 1,460 rows.
            orders = torch.stack([shuffled(rows) for rows in rows_of])
            for batch in orders.split(64, dim=1):
                adam.zero_grad()
                residuals = (inputs[batch] @ w + b)[..., 0] - labels[batch]
                residuals.square().mean(dim=1).sum().backward()
                adam.step()
            with torch.no_grad():
                for some in (rows_of, others_of):
                    seen = torch.stack(some)
                    log_rmse((inputs[seen] @ w + b)[..., 0], labels[seen]).item()

    for name, run in (("fold by fold", loop), ("folds stacked", stacked)):
        yield Work(
            HOUSES,
            f"PyTorch, {name}",
            finished(run, device),
            len(rows_of),
            "models",
            memory=partial(peak_mb, partial(run, 1), [inputs, labels], device),
        )
