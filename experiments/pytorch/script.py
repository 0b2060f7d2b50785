"""The dropout experiment as a plain PyTorch script, for timing whole commands.

`python -m experiments.pytorch.script FOLDER SEED`, with the four packed files of
Fashion-MNIST in the folder, does what `python -m experiments.dropout --no-figures`
does: both variants, 10 epochs each, the test set after every epoch and the training set
at the end. `python -m experiments.end_to_end` runs both.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from experiments.pytorch import twins

BATCH_SIZE, EPOCHS, LEARNING_RATE = 256, 10, 0.5


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [0, 1] and classes."""
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.tensor(images).float() / 255, torch.tensor(labels).long()


def accuracy(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the fraction of images that are classified rightly, nothing dropped."""
    net.eval()
    with torch.no_grad():
        right = [
            (net(x).argmax(dim=1) == y).sum().item()
            for x, y in zip(images.split(2048), labels.split(2048), strict=True)
        ]
    net.train()
    return sum(right) / len(labels)


def main() -> None:
    """Train with dropout and without, and print the accuracies."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    train, test = load(folder, "train"), load(folder, "t10k")
    dataset = torch.utils.data.TensorDataset(*train)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True)
    torch.manual_seed(seed)
    for rates in ((0.2, 0.5), (0.0, 0.0)):
        net = twins.perceptron(rates=rates)
        twins.init_normal(net)
        sgd = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
        for epoch in range(EPOCHS):
            losses = []
            for images, labels in loader:
                loss = cross_entropy(net(images), labels)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                losses.append(loss.item())
            print(
                f"dropout {rates}, epoch {epoch + 1}: loss {np.mean(losses):.4f}, "
                f"test accuracy {accuracy(net, *test):.4f}"
            )
        print(f"dropout {rates}: training accuracy {accuracy(net, *train):.4f}")


if __name__ == "__main__":
    main()
