"""The benchmark and growth: each row does the work it claims, and noise is named."""

import jax
import numpy as np
import pytest
import torch
from support import read

from ch4jax.data import fashion_mnist
from ch4jax.training import folds
from experiments import benchmark, growth
from experiments.benchmark import dispatch, rows, tables, torch_rows
from experiments.benchmark.rows import DROPOUT, FLOOR, Houses, Work
from experiments.common import roofline, timing
from experiments.common.linear_problem import Hyperparameters, draw_problem
from experiments.common.timing import Timing

EAGER, SCANNED = "PyTorch, eager, in memory", "JAX, scanned epoch"


@pytest.fixture
def houses():
    rng = np.random.default_rng(0)
    x, features = (rng.normal(size=(20, n)).astype(np.float32) for n in (3, 40))
    return Houses(x, np.exp(x[:, 0] + 12), folds.k_fold(20, 5), features)


@pytest.mark.parametrize(
    ("slowest", "epoch", "noisy"),
    [
        (4.5, 1.005, {}),  # at both borders
        (4.53, 2.0, {EAGER: "the slowest round took 1.51 times the fastest"}),
        (3.3, 0.67, {SCANNED: "took 0.67 times as long as its floor"}),
    ],
)
def test_rows_stand_beside_floor_and_pytorch_and_noise_is_named(
    few_images, tmp_path, monkeypatch, capsys, slowest, epoch, noisy
):
    planted = {
        FLOOR: Timing(9.0, 1.0, 0.9, 1.1),
        EAGER: Timing(9.0, 3.1, 3.0, slowest),
        SCANNED: Timing(9.0, epoch, 0.99 * epoch, 1.01 * epoch),
    }
    works = [Work(DROPOUT, n, print, 300, has_floor=n == SCANNED) for n in planted]
    not_run = {"GPU and TPU": "there is none"}
    timings = {f"{DROPOUT}: {name}": found for name, found in planted.items()}
    floors = {"copy_gb_per_second": 1.0, "dispatch_microseconds": 1.0}
    monkeypatch.setattr(benchmark, "works", lambda config, data: (works, not_run))
    monkeypatch.setattr(benchmark, "measure_floors", lambda rounds: floors)
    monkeypatch.setattr(timing, "interleave", lambda works, rounds: timings)
    benchmark.run(benchmark.Config(quick=True, out=tmp_path))

    summary, record = read(tmp_path), read(tmp_path, "record")
    assert summary["quiet"] == (not noisy)
    assert summary["not_run"] == [{"name": "GPU and TPU", "reason": "there is none"}]
    assert summary["floors"]["products_seconds"] == 1.0
    _, eager, scanned = summary["rows"]
    assert scanned["throughput"] == 300 / epoch
    assert scanned["to_floor"] == pytest.approx(epoch)
    assert scanned["to_pytorch"] == pytest.approx(3.1 / epoch)
    assert (eager["to_pytorch"], eager["peak_memory_mb"]) == (1, None)
    first, *others = record["tables"]
    named = [[f"{DROPOUT}: {name}", reason] for name, reason in noisy.items()]
    assert [table["rows"] for table in others] == ([named] if noisy else [])
    for text in (first["title"], record["headline"], capsys.readouterr().out):
        assert ("not quiet: do not quote" in text) == bool(noisy)


def test_jax_is_compared_with_the_fastest_row_of_pytorch_in_the_same_dtype():
    speeds = {
        **{"PyTorch, eager": 3.0, "PyTorch, vmap over 4": 5.0},
        **{"PyTorch, eager, bfloat16": 8.0, "JAX": 10.0, "JAX, bfloat16": 12.0},
    }
    works = [Work(DROPOUT, name, print, 1) for name in speeds]
    timings = [Timing(1, 1 / speed, 1, 1) for speed in speeds.values()]
    related = tables.relate(works, timings)
    assert [row["to_pytorch"] for row in related] == pytest.approx(
        [3 / 5, 1, 1, 10 / 5, 12 / 8]
    )


def test_the_floors_of_the_machine_are_positive(monkeypatch):
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**12)
    assert all(value > 0 for value in benchmark.measure_floors(1).values())


def test_the_floor_computes_every_product_of_every_step():
    # 300 rows make two steps; their last products are those of the second batch.
    kernels = roofline.matrix_products(300)()
    assert [kernel.shape for kernel in kernels] == list(roofline.SIZES)
    first = roofline.matrix_products(256)()
    assert all((a != b).any() for a, b in zip(kernels, first, strict=True))


def test_operations_are_those_of_three_products_forward_and_five_backward():
    forward = 784 * 256 + 256 * 256 + 256 * 10
    backward = forward + 256 * 256 + 256 * 10  # no gradient of the images is asked for
    assert roofline.floating_point_operations(100) == 2 * 100 * (forward + backward)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # the second is a rehearsal
def test_every_jax_row_of_the_dropout_mlp_trains_on_every_row(
    platform, few_images, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(rows, "POPULATIONS", (2,))
    monkeypatch.setattr(rows, "HIDDEN", (8, 8))
    works = list(rows.dropout_rows(fashion_mnist.load("mini")))
    for work in works:
        result = work.run()
        state = result if "step by step" in work.name else result[0]
        members, seen = (2, 30) if "population" in work.name else (1, 300)
        assert work.amount == members * seen
        assert np.unique(state.step) == [-(-seen // 256)]
        leaves = jax.tree.leaves(state.params)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    fast_modes = 1 + (platform == "gpu")
    floors = [True] * 3 + [False] * (fast_modes + 1)
    assert [work.has_floor for work in works] == floors


def test_every_row_of_pytorch_and_the_perceptrons_run(few_images, houses, monkeypatch):
    monkeypatch.setattr(rows, "POPULATIONS", (1, 2))
    monkeypatch.setattr(rows, "EPOCHS", 1)
    data, cpu = fashion_mnist.load("mini"), torch.device("cpu")
    problem = draw_problem(
        Hyperparameters(inputs=3, train_rows=5, test_rows=5), key=jax.random.key(0)
    )
    works = [
        *torch_rows.dropout_rows(data, cpu, compile=False),
        *torch_rows.house_rows(houses, cpu),
        *torch_rows.perceptron_rows(houses, cpu, compile=False),
        *torch_rows.sweep_rows(problem, cpu, members=3),
        *rows.perceptron_rows(houses),
    ]
    for work in works:
        work.run()
    amounts = [300, 300, 300, 60, 5, 5, 40, 2, 3, 2, 3, 40]
    assert [work.amount for work in works] == amounts


def test_pytorch_is_timed_on_the_device_of_jax_or_not_at_all(monkeypatch, houses):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    data = fashion_mnist.load("mini")
    works, missing = benchmark.torch_works(benchmark.Config(), data, houses)
    assert (works, list(missing)) == ([], ["every row of PyTorch"])
    assert missing["every row of PyTorch"].endswith("has no gpu here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    assert torch_rows.device_for("gpu", seed=0) == torch.device("cuda")
    torch.set_float32_matmul_precision(before)


def test_images_of_the_dataloader_are_those_in_memory():
    data = fashion_mnist.load("mini")
    images = np.array(data.train_images)
    image, label = torch_rows.Images(images, data.train_labels)[7]
    torch.testing.assert_close(image[0], torch.tensor(images[7]).float() / 255)
    assert label == data.train_labels[7]


def test_a_tiny_model_takes_as_many_steps_in_each_of_four_ways(monkeypatch):
    monkeypatch.setattr(dispatch, "CALLS", 3)
    for work in dispatch.rows():
        leaves = jax.tree.leaves(work.run())
        numbers = [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.integer)]
        assert {int(number) for number in numbers} == {3}, work.name
        assert sum(leaf.size for leaf in leaves) >= 3 * 4 * (8 * 8 + 8)  # with Adam's
        assert (work.amount, work.has_floor) == (3, False)


@pytest.mark.parametrize(
    "platform",
    ["cpu", pytest.param("gpu", marks=pytest.mark.long)],  # a rehearsal
)
def test_growth_measures_time_and_memory_of_each_size(platform, tmp_path, monkeypatch):
    axes = {"batch size": (16, 256), "population": (1, 2)}
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    for prefix in ("", "LARGE_"):
        monkeypatch.setattr(growth, f"{prefix}BASE", growth.Setting(rows=64, width=8))
        monkeypatch.setattr(growth, f"{prefix}AXES", axes)
    growth.run(growth.Config(rounds=1, out=tmp_path))
    summary = read(tmp_path)
    points = summary["points"]
    sizes = [(axis, size) for axis in axes for size in axes[axis]]
    assert [(p["axis"], p["size"]) for p in points] == sizes
    assert points[1]["seconds"] == points[2]["seconds"]  # one measurement: the base
    assert points[3]["floor_seconds"] == 2 * points[2]["floor_seconds"]
    assert points[0]["memory_mb"] > 64 * 28 * 28 / 1e6  # the images alone
    assert summary["base"]["batch size"] == 256
    crossed = summary["faster_than_cpu_from"]
    assert set(crossed) == (set() if platform == "cpu" else set(axes))
