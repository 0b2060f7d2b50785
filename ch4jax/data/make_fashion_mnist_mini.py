"""Make the shipped tenth of Fashion-MNIST from the whole set.

Run it as `python -m ch4jax.data.make_fashion_mnist_mini`. Of each class, 600 of
the training and 100 of the test images are drawn without replacement by NumPy's
PCG64 with seed 0, and keep the order they have in the whole set. It writes the
four files and prints the lines that `fashion_mnist.MINI` has to hold.
"""

import gzip
import hashlib

import numpy as np

from ch4jax.data import fashion_mnist


def rows_by_class(
    labels: np.ndarray, rows_per_class: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `rows_per_class` rows of each class; returns their numbers, ascending."""
    drawn = [
        rng.choice(np.flatnonzero(labels == label), rows_per_class, replace=False)
        for label in range(len(fashion_mnist.CLASSES))
    ]
    return np.sort(np.concatenate(drawn))


def mini_arrays(full: fashion_mnist.FashionMNIST) -> list[np.ndarray]:
    """Return the training and test images and labels of the tenth."""
    rng = np.random.Generator(np.random.PCG64(0))
    train_images, train_labels, test_images, test_labels = map(np.asarray, full[:4])
    train = rows_by_class(train_labels, 600, rng)
    test = rows_by_class(test_labels, 100, rng)
    return [
        train_images[train],
        train_labels[train],
        test_images[test],
        test_labels[test],
    ]


def main() -> None:
    """Write the files."""
    folder = fashion_mnist.SHIPPED_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    arrays = mini_arrays(fashion_mnist.load("full"))
    for file, array in zip(fashion_mnist.MINI, arrays, strict=True):
        file = file._replace(shape=array.shape)
        content = file.header + array.tobytes()
        packed = gzip.compress(content, compresslevel=9, mtime=0)
        (folder / f"{file.name}.gz").write_bytes(packed)
        print(f"{file.name} {array.shape} {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
