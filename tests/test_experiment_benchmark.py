"""The benchmark times every row in turn, and each row does the work it claims."""

import json

import jax
import numpy as np
import pytest
import torch

from ch4jax.data import fashion_mnist
from ch4jax.training import folds
from experiments import benchmark, growth, profile
from experiments.benchmark import rows as benchmark_rows
from experiments.benchmark.rows import Work
from experiments.benchmark.tables import FLOOR
from experiments.common import roofline as floors
from experiments.common.console import Report
from experiments.pytorch import memory, rows


@pytest.fixture
def houses():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    return x, np.exp(x[:, 0] + 12), folds.k_fold(20, 5)


def test_the_run_leaves_rows_a_table_and_a_figure(few_images, tmp_path, monkeypatch):
    names = (FLOOR, "PyTorch, eager, in memory", "JAX, scanned epoch")
    works = [Work("dropout MLP", n, lambda: np.ones(9), 300, "images") for n in names]

    def some(config, data, not_run):
        not_run.append({"name": "GPU and TPU", "reason": "there is none"})
        return iter(works)

    monkeypatch.setattr(benchmark, "works", some)
    monkeypatch.setattr(floors, "COPIED_BYTES", 2**12)
    benchmark.run(benchmark.Config(quick=True, out=tmp_path), Report("benchmark"))
    found = json.loads((tmp_path / "benchmark.json").read_text())
    floor, eager, scanned = found["rows"]
    assert floor["to_floor"] == eager["to_pytorch"] == 1
    assert scanned["to_pytorch"] == scanned["throughput"] / eager["throughput"]
    assert scanned["throughput"] == 300 / scanned["median"]
    assert found["not_run"][0]["name"] == "GPU and TPU"
    assert found["floors"]["products_gflops"] > 0
    table = (tmp_path / "benchmark.md").read_text()
    assert all(f"| {name} |" in table for name in names)
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000


def test_the_floor_computes_every_product_of_every_step():
    # 300 rows make two steps; their last products are those of the second batch.
    kernels = floors.matrix_products(300)()
    assert [kernel.shape for kernel in kernels] == list(floors.SIZES)
    first = floors.matrix_products(256)()
    assert all((a != b).any() for a, b in zip(kernels, first, strict=True))


def test_operations_are_those_of_three_products_forward_and_five_backward():
    forward = 784 * 256 + 256 * 256 + 256 * 10
    backward = forward + 256 * 256 + 256 * 10  # no gradient of the images is asked for
    assert floors.floating_point_operations(100) == 2 * 100 * (forward + backward)


def test_every_jax_row_of_the_dropout_mlp_trains_on_every_row(few_images, monkeypatch):
    monkeypatch.setattr(benchmark_rows, "POPULATIONS", (2,))
    monkeypatch.setattr(benchmark_rows, "HIDDEN", (8, 8))
    for work in benchmark_rows.dropout_rows(fashion_mnist.load("mini").on_device()):
        result = work.run()
        state = result if "step by step" in work.name else result[0]
        members = 2 if "population" in work.name else 1
        seen = 30 if "population" in work.name else 300
        assert work.amount == members * seen
        assert np.unique(state.step) == [-(-seen // 256)]
        leaves = jax.tree.leaves(state.params)
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_every_pytorch_row_runs(few_images, houses, monkeypatch):
    data = fashion_mnist.load("mini")
    cpu = rows.device_for("cpu")
    line = (np.ones((5, 3), np.float32), np.ones((5, 1), np.float32))
    works = [*rows.dropout_rows(data, cpu, compile=False)]
    works += [*rows.house_rows(*houses, cpu), *rows.sweep_rows(line, cpu)]
    for work in works:
        work.run()
        assert work.memory() > 0
    assert [w.amount for w in works] == [300, 300, 300, 5, 5, 2, 2]


def test_memory_is_the_most_that_is_held_at_once():
    held = torch.zeros(250_000)  # a megabyte

    def one_after_the_other():
        for _ in range(3):
            torch.empty(500_000)

    def both():
        one, other = torch.empty(500_000), torch.empty(250_000)
        del one
        return other

    cpu = torch.device("cpu")
    assert memory.peak_mb(one_after_the_other, [held], cpu) == 1 + 2
    assert memory.peak_mb(both, [held], cpu) == 1 + 2 + 1
    assert memory.peak_mb(lambda: None, [held, held], cpu) == 2


def test_on_cuda_memory_is_what_pytorch_counts(monkeypatch):
    counted = {"now": 5_000_000, "most": 9_000_000}

    def work():
        counted["most"] = 7_000_000

    def reset():
        counted["most"] = counted["now"]

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: counted["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: counted["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert memory.peak_mb(work, [], torch.device("cuda")) == 2
    assert memory.peak_mb(lambda: None, [], torch.device("cuda")) == 0


def test_pytorch_is_timed_on_the_device_of_jax_or_not_at_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    not_run = []
    assert list(benchmark.torch_works(benchmark.Config(), None, None, not_run)) == []
    assert not_run[0]["name"] == "every row of PyTorch"
    assert not_run[0]["reason"].endswith("has no gpu here")
    assert rows.device_for("tpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    assert rows.device_for("gpu") == torch.device("cuda")
    torch.set_float32_matmul_precision(before)


def test_images_of_the_dataloader_are_those_in_memory(few_images):
    data = fashion_mnist.load("mini")
    images = np.array(data.train_images)
    image, label = rows.Images(images, data.train_labels)[7]
    torch.testing.assert_close(image[0], torch.tensor(images[7]).float() / 255)
    assert label == data.train_labels[7]


def test_growth_measures_time_and_memory_of_each_size(tmp_path, monkeypatch):
    monkeypatch.setitem(growth.BASE, "rows", 64)
    monkeypatch.setitem(growth.BASE, "width", 8)
    monkeypatch.setattr(growth, "sizes", lambda quick: {"batch size": (16, 32)})
    growth.run(growth.Config(rounds=1, out=tmp_path), Report("growth"))
    points = json.loads((tmp_path / "summary.json").read_text())["points"]
    assert [p["size"] for p in points] == [16, 32]
    assert points[0]["memory_mb"] > 64 * 28 * 28 / 1e6  # the images alone
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_the_profile_tells_every_part_beside_the_whole(few_images, tmp_path):
    config = profile.Config(rounds=1, data="mini", out=tmp_path)
    profile.run(config, Report("profile"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {**summary["parts"], **summary["whole"], **summary["before"]}
    assert len(found) == 6 + 4 + 4
    assert all(seconds > 0 for seconds in found.values())
    assert (tmp_path / "profile.png").stat().st_size > 5_000


def test_the_parts_of_the_profile_are_those_of_the_epoch(few_images):
    data = fashion_mnist.load("mini").on_device()
    results = {name: part() for name, part in profile.parts(data).items()}
    masks = results["random masks"]
    kept = [float(mask.mean()) for mask in masks]
    np.testing.assert_allclose(kept, [0.8, 0.5], atol=0.02)
    assert results["images gathered, made floats"].shape == (256, 28, 28)
    assert results["images gathered, made floats"].max() == 1.0
    assert np.unique(results["rows shuffled"][0]).size == len(data.train_images)
