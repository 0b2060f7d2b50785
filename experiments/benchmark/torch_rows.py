"""What `experiments.benchmark` times on PyTorch's side, written plainly.

It needs PyTorch, so the command imports it only if there is one.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import experiments.benchmark.rows as shared
from ch4jax.data.fashion_mnist import FashionMNIST
from experiments.benchmark.rows import Houses, Work
from experiments.common import roofline
from experiments.common.linear_problem import Problem
from experiments.common.roofline import BATCH_SIZE
from experiments.pytorch import twins

Pairs = Iterator[tuple[torch.Tensor, torch.Tensor]]
Batches = Callable[[], Pairs]
UInt8s = UInt8[np.ndarray, "..."]


class Images(torch.utils.data.Dataset):
    """Images converted one by one through Pillow, as torchvision does."""

    def __init__(self, images: UInt8s, labels: UInt8s) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        """Return one image, shape (1, 28, 28) in [0, 1], and its class."""
        pixels = torch.from_numpy(np.array(Image.fromarray(self.images[i])))[None]
        return pixels.to(torch.float32).div(255), int(self.labels[i])


def device_for(platform: str, *, seed: int) -> torch.device | None:
    """Seed PyTorch, and return its device of the kind that JAX calls `platform`.

    On a CPU it uses as many threads as XLA; on a GPU products round to TF32 only if
    JAX's may. None if PyTorch has no such device.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(roofline.threads())
    if platform == "gpu" and torch.cuda.is_available():
        exact = jax.config.values["jax_default_matmul_precision"] == "highest"
        torch.set_float32_matmul_precision("highest" if exact else "high")
        return torch.device("cuda")
    return torch.device("cpu") if platform == "cpu" else None


def finished(work: Callable[[], None], device: torch.device) -> Callable[[], str]:
    """Return a function that does the work and waits for the device."""

    def run() -> str:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return "done"

    return run


def dropout_rows(
    data: FashionMNIST, device: torch.device, *, compile: bool
) -> Iterator[Work]:
    """Yield an epoch of the dropout MLP."""
    images = np.array(data.train_images)  # PyTorch wants them writable
    labels = np.array(data.train_labels)
    x = (torch.tensor(images).float() / 255).to(device)
    y = torch.tensor(labels).long().to(device)
    dataset = Images(images, labels)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True)

    def in_memory() -> Pairs:
        for rows in torch.randperm(len(x), device=device).split(BATCH_SIZE):
            yield x[rows], y[rows]

    def loaded() -> Pairs:
        for inputs, classes in loader:
            yield inputs.to(device), classes.to(device)

    def train(
        name: str, batches: Batches, *, autocast: bool = False, compile: bool = False
    ) -> Work:
        net = twins.perceptron(shared.HIDDEN, shared.RATES).to(device)
        twins.init_normal(net, shared.STD)
        call = torch.compile(net) if compile else net
        sgd = torch.optim.SGD(net.parameters(), lr=shared.LEARNING_RATE)

        def epoch() -> None:
            for inputs, classes in batches():
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    loss = cross_entropy(call(inputs), classes)
                sgd.zero_grad()
                loss.backward()
                sgd.step()

        return Work(shared.DROPOUT, name, finished(epoch, device), len(x))

    yield train("PyTorch, eager, DataLoader", loaded)
    yield train("PyTorch, eager, in memory", in_memory)
    yield train("PyTorch, eager, bfloat16", in_memory, autocast=True)
    if compile:
        yield train("PyTorch, torch.compile", in_memory, compile=True)
    few = len(x) // 10  # as for JAX's populations

    def population(members: int) -> Work:
        nets = [twins.perceptron(shared.HIDDEN, shared.RATES) for _ in range(members)]
        for net in nets:
            twins.init_normal(net, shared.STD)
        params, _ = torch.func.stack_module_state([net.to(device) for net in nets])

        def loss(
            params: dict[str, torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor
        ) -> torch.Tensor:
            logits = torch.func.functional_call(nets[0], params, (inputs,))
            return cross_entropy(logits, labels)

        gradients = torch.vmap(torch.func.grad(loss), randomness="different")

        def epoch() -> None:
            orders = [torch.randperm(few, device=device) for _ in nets]
            with torch.no_grad():
                for rows in torch.stack(orders).split(BATCH_SIZE, dim=1):
                    for name, grad in gradients(params, x[rows], y[rows]).items():
                        params[name].sub_(shared.LEARNING_RATE * grad)

        name, work = f"PyTorch, vmap over {members}", finished(epoch, device)
        return Work(shared.DROPOUT, name, work, members * few)

    yield from map(population, shared.POPULATIONS[1:])


def sweep_rows(
    problem: Problem, device: torch.device, runs: int = 2, members: int = 2048
) -> Iterator[Work]:
    """Yield runs of linear regression with an L2 penalty: one by one, and at once."""
    x, y = (torch.tensor(np.asarray(array)).to(device) for array in problem.train_data)

    def train(make: Callable[..., torch.optim.Optimizer]) -> None:
        for _ in range(runs):
            net = nn.Linear(x.shape[1], 1, device=device)
            nn.init.normal_(net.weight)
            decayed = {"params": [net.weight], "weight_decay": 3.0}
            rest = {"params": [net.bias], "weight_decay": 0.0}
            optimizer = make([decayed, rest], lr=0.003)
            for _ in range(100):
                for rows in torch.randperm(len(x), device=device).split(5):
                    optimizer.zero_grad()
                    (mse_loss(net(x[rows]), y[rows]) / 2).backward()
                    optimizer.step()

    for name, make in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        run = finished(partial(train, make), device)
        yield Work(shared.SWEEP, f"PyTorch, one by one, {name}", run, runs)

    def together() -> None:
        w = torch.randn(members, x.shape[1], 1, device=device)
        b = torch.zeros(members, 1, 1, device=device)

        def loss(
            w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor
        ) -> torch.Tensor:
            return mse_loss(x @ w + b, y) / 2

        gradients = torch.vmap(torch.func.grad(loss, argnums=(0, 1)))
        for _ in range(100):
            orders = torch.rand(members, len(x), device=device).argsort(dim=1)
            for rows in orders.split(5, dim=1):
                of_w, of_b = gradients(w, b, x[rows], y[rows])
                w -= 0.003 * (of_w + 3.0 * w)
                b -= 0.003 * of_b

    name = f"PyTorch, vmap over {members:,}, SGD"
    yield Work(shared.SWEEP, name, finished(together, device), members)


def house_rows(houses: Houses, device: torch.device) -> Iterator[Work]:
    """Yield the five folds of the book's recipe: in a loop, and stacked."""
    x, prices = (torch.tensor(array).to(device) for array in houses[:2])
    in_training = [torch.tensor(fold).to(device) for fold in houses.in_training]
    rows_of = [fold.nonzero()[:, 0] for fold in in_training]
    others_of = [(~fold).nonzero()[:, 0] for fold in in_training]
    k, width = len(rows_of), x.shape[1]

    def shuffled(rows: torch.Tensor) -> torch.Tensor:
        return rows[torch.randperm(len(rows), device=device)]

    def log_rmse(predicted: torch.Tensor, true: torch.Tensor) -> float:
        return mse_loss(predicted.clamp(min=1).log(), true.log()).sqrt().item()

    def loop() -> None:
        for rows, others in zip(rows_of, others_of, strict=True):
            net = nn.Linear(width, 1, device=device)
            adam = torch.optim.Adam(net.parameters(), lr=5.0)
            for _ in range(100):
                for batch in shuffled(rows).split(64):
                    adam.zero_grad()
                    mse_loss(net(x[batch])[:, 0], prices[batch]).backward()
                    adam.step()
                with torch.no_grad():
                    for seen in (rows, others):
                        log_rmse(net(x[seen])[:, 0], prices[seen])

    def stacked() -> None:
        bound = width**-0.5
        w = torch.empty(k, width, 1, device=device).uniform_(-bound, bound)
        b = torch.empty(k, 1, 1, device=device).uniform_(-bound, bound)
        adam = torch.optim.Adam([w.requires_grad_(), b.requires_grad_()], lr=5.0)
        for _ in range(100):
            # Of one size, since five divides the 1,460 rows.
            orders = torch.stack([shuffled(rows) for rows in rows_of])
            for batch in orders.split(64, dim=1):
                adam.zero_grad()
                residuals = (x[batch] @ w + b)[..., 0] - prices[batch]
                residuals.square().mean(dim=1).sum().backward()
                adam.step()
            with torch.no_grad():
                for some in (rows_of, others_of):
                    seen = torch.stack(some)
                    log_rmse((x[seen] @ w + b)[..., 0], prices[seen])

    for name, run in (("fold by fold", loop), ("folds stacked", stacked)):
        yield Work(shared.HOUSES, f"PyTorch, {name}", finished(run, device), k)
