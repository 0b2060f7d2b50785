"""The benchmark times every row in turn, and does the same work in each."""

import json

import numpy as np

from ch4jax.data import fashion_mnist
from experiments import benchmark
from experiments.console import Report


def test_every_row_is_timed_and_held_against_the_products(few_images, tmp_path):
    benchmark.run(benchmark.Config(rounds=1, out=tmp_path), Report("benchmark"))
    results = json.loads((tmp_path / "summary.json").read_text())["results"]
    names = [row["name"] for row in results]
    assert names[0] == "matrix products alone"
    assert sum(name.startswith("JAX") for name in names) == 3
    assert sum(name.startswith("PyTorch") for name in names) == 2
    for row in results:
        assert row["to_floor"] == row["median"] / results[0]["median"]


def test_the_floor_computes_every_product_of_every_step():
    # 300 rows make two steps; their last products are those of the second batch.
    kernels = benchmark.matrix_products(300)()
    assert [kernel.shape for kernel in kernels] == [(784, 256), (256, 256), (256, 10)]
    first = benchmark.matrix_products(256)()
    assert all((a != b).any() for a, b in zip(kernels, first, strict=True))


def test_the_scanned_epoch_and_the_steps_train_on_every_row(few_images):
    data = fashion_mnist.load("mini").on_device()
    works = benchmark.jax_epochs(data)
    for name, work in works.items():
        result = work()
        state = result[0] if "scanned" in name else result
        assert state.step == 2
        assert np.isfinite(state.params["params"]["Dense_0"]["kernel"]).all()
