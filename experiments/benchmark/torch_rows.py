"""What `experiments.benchmark` times on PyTorch's side, written plainly.

It needs PyTorch, so the command imports it only if there is one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import jax
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss, mse_loss, silu

import experiments.benchmark.rows as shared
from ch4jax.data.fashion_mnist import FashionMNIST
from ch4jax.house_prices import models
from experiments.benchmark.rows import Houses, Work
from experiments.common import roofline
from experiments.common.linear_problem import Problem
from experiments.common.roofline import BATCH_SIZE
from experiments.pytorch import twins

Pairs = Iterator[tuple[Tensor, Tensor]]
Batches = Callable[[], Pairs]
Params = dict[str, Tensor]
UInt8s = UInt8[np.ndarray, "..."]


class Images(torch.utils.data.Dataset):
    """Images converted one by one through Pillow, as torchvision does."""

    def __init__(self, images: UInt8s, labels: UInt8s) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
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


def shuffled(rows: Tensor) -> Tensor:
    """Return the rows in a random order."""
    return rows[torch.randperm(len(rows), device=rows.device)]


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

    def population(members: int, *, compile: bool = False) -> Work:
        nets = [twins.perceptron(shared.HIDDEN, shared.RATES) for _ in range(members)]
        for net in nets:
            twins.init_normal(net, shared.STD)
        params, _ = torch.func.stack_module_state([net.to(device) for net in nets])

        def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(torch.func.functional_call(nets[0], params, (x,)), y)

        gradients = torch.vmap(torch.func.grad(loss), randomness="different")

        def step(params: Params, x: Tensor, y: Tensor) -> Params:
            of = gradients(params, x, y)
            return {k: p - shared.LEARNING_RATE * of[k] for k, p in params.items()}

        call = torch.compile(step, dynamic=False) if compile else step

        def epoch() -> None:
            current = {name: p.detach() for name, p in params.items()}
            orders = [torch.randperm(few, device=device) for _ in nets]
            for rows in torch.stack(orders).split(BATCH_SIZE, dim=1):
                current = call(current, x[rows], y[rows])

        name = f"PyTorch, {'compiled ' if compile else ''}vmap over {members}"
        return Work(shared.DROPOUT, name, finished(epoch, device), members * few)

    yield from map(population, shared.POPULATIONS[1:])
    if compile:
        yield population(shared.POPULATIONS[-1], compile=True)


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

    def together(make: Callable[..., torch.optim.Optimizer]) -> None:
        w = torch.randn(members, x.shape[1], 1, device=device)
        b = torch.zeros(members, 1, 1, device=device)
        optimizer = make([w, b], lr=0.003)

        def loss(w: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return mse_loss(x @ w + b, y) / 2

        gradients = torch.vmap(torch.func.grad(loss, argnums=(0, 1)))
        for _ in range(100):
            orders = torch.rand(members, len(x), device=device).argsort(dim=1)
            for rows in orders.split(5, dim=1):
                of_w, b.grad = gradients(w, b, x[rows], y[rows])
                w.grad = of_w + 3.0 * w
                optimizer.step()

    for name, make in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
        run = finished(partial(train, make), device)
        yield Work(shared.SWEEP, f"PyTorch, one by one, {name}", run, runs)
        run = finished(partial(together, make), device)
        yield Work(
            shared.SWEEP, f"PyTorch, vmap over {members:,}, {name}", run, members
        )


def house_rows(houses: Houses, device: torch.device) -> Iterator[Work]:
    """Yield the five folds of the book's recipe: in a loop, and stacked."""
    x, prices = (torch.tensor(array).to(device) for array in houses[:2])
    in_training = [torch.tensor(fold).to(device) for fold in houses.in_training]
    rows_of = [fold.nonzero()[:, 0] for fold in in_training]
    others_of = [(~fold).nonzero()[:, 0] for fold in in_training]
    k, width = len(rows_of), x.shape[1]

    def log_rmse(predicted: Tensor, true: Tensor) -> float:
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


def perceptron_rows(
    houses: Houses, device: torch.device, *, compile: bool
) -> Iterator[Work]:
    """Yield the perceptrons of the best recipe for house prices, stacked."""
    x = torch.tensor(houses.features).to(device)
    y = torch.tensor(np.log(houses.prices)).to(device)
    y = (y - y.mean()) / y.std()
    rows_of = [
        torch.tensor(fold.nonzero()[0]).to(device) for fold in houses.in_training
    ]
    of_fold = shared.SETTINGS * shared.SEEDS
    members = of_fold * len(rows_of)
    decay = torch.linspace(0.5, 1.5, members, device=device)[:, None, None]
    rate = torch.linspace(0.2, 0.3, members, device=device)[:, None, None]
    hidden, waves, frequencies, scale = models.Architecture()
    widths = x.shape[1] + waves * frequencies, *hidden, 1

    def loss(params: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        frequency, phase, *layers = params
        angles = 2 * torch.pi * x[..., :waves, None] * frequency + phase
        h = torch.cat([x, angles.cos().flatten(2)], dim=2)
        for i, (kernel, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
            h = (silu(h) if i else h) * (torch.rand_like(h) >= rate) / (1 - rate)
            h = torch.baddbmm(bias, h, kernel)
        return huber_loss(h[..., 0], y, delta=models.HUBER) * members

    def train(loss: Callable[..., Tensor]) -> None:
        normal = partial(torch.randn, device=device)
        params = [scale * normal(members, 1, waves, frequencies)]
        params += [2 * torch.pi * torch.rand_like(params[0])]
        for fan_in, fan_out in pairwise(widths):
            params += [normal(members, fan_in, fan_out) * fan_in**-0.5]
            params += [0.3 * normal(members, 1, fan_out)]
        for leaf in params:
            leaf.requires_grad_()
        adam = torch.optim.Adam(params, lr=0.01, betas=(0.9, 0.95), fused=True)
        for _ in range(shared.EPOCHS):
            orders = [shuffled(rows) for rows in rows_of for _ in range(of_fold)]
            for batch in torch.stack(orders).split(128, dim=1):
                adam.zero_grad()
                loss(params, x[batch], y[batch]).backward()
                with torch.no_grad():
                    for kernel in params[2::2]:
                        kernel.mul_(1 - 0.01 * decay)
                adam.step()

    calls = {"stacked": loss}
    if compile:
        calls["stacked, compiled"] = torch.compile(loss, dynamic=False)
    for name, call in calls.items():
        run = finished(partial(train, call), device)
        yield Work(shared.PERCEPTRONS, f"PyTorch, {name}", run, members)
