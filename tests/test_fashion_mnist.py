"""Fashion-MNIST: where it is found, and that nothing wrong is ever used."""

import functools
import gzip
import http.server
import threading

import numpy as np
import pytest

from ch4jax.data import fashion_mnist, idx
from ch4jax.data.make_fashion_mnist_mini import mini_arrays
from ch4jax.errors import DataError, NetworkError

NAMES = [file.name for file in fashion_mnist.FULL]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data on this machine, no network, until a test says otherwise."""
    monkeypatch.setenv("CH4JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())


@pytest.fixture
def small(monkeypatch):
    """Let the shipped tenth stand for the whole set."""
    monkeypatch.setattr(fashion_mnist, "FULL", fashion_mnist.MINI)


def fill(folder, **changes):
    """Write the shipped files to `folder`, unpacked, with some bytes changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        packed = (fashion_mnist.SHIPPED_FOLDER / f"{name}.gz").read_bytes()
        content = gzip.decompress(packed)
        content = changes.get(name.replace("-", "_"), lambda same: same)(content)
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve a folder on this machine as the one mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (url,))
        yield folder
        server.shutdown()


def test_the_shipped_tenth_is_balanced_and_sound():
    data = fashion_mnist.load("mini")
    assert data.name == "mini"
    assert data.train_images.shape == (6000, 28, 28)
    assert data.test_images.shape == (1000, 28, 28)
    assert data.train_images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(data.train_labels), [600] * 10)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [100] * 10)
    assert len(fashion_mnist.CLASSES) == 10


def test_pixels_become_floats_from_0_to_1():
    images = fashion_mnist.load("mini").on_device().train_images[:100]
    floats = fashion_mnist.to_float(images)
    assert floats.dtype == np.float32
    assert floats.min() == 0.0
    assert floats.max() == 1.0
    np.testing.assert_allclose(floats * 255, images, rtol=1e-6)


def test_without_files_and_network_auto_takes_the_tenth_and_full_says_what_to_do():
    assert fashion_mnist.load("auto").name == "mini"
    with pytest.raises(NetworkError, match=r"put train-images.*\.gz.*into .*mini"):
        fashion_mnist.load("full")


@pytest.mark.parametrize("place", ["data", "data/fashion-mnist", "system"])
def test_the_whole_set_is_found_where_it_may_be(place, tmp_path, small):
    folder = fill(tmp_path / place)
    for source in ("auto", "full", str(folder)):
        data = fashion_mnist.load(source)
        assert data.name == "full"
        assert data.folder == folder


def test_a_download_ends_in_the_cache_and_is_used_from_there(mirror, tmp_path, small):
    for file in fashion_mnist.SHIPPED_FOLDER.iterdir():
        (mirror / file.name).write_bytes(file.read_bytes())
    cache = tmp_path / "data" / "fashion-mnist"
    assert fashion_mnist.load("auto").folder == cache
    for file in mirror.iterdir():
        file.unlink()
    assert fashion_mnist.load("full").folder == cache


@pytest.mark.parametrize("fault", ["truncated", "foreign", "missing"])
def test_a_bad_mirror_leaves_nothing_behind(fault, mirror, tmp_path, small):
    for file in fashion_mnist.SHIPPED_FOLDER.iterdir():
        content = file.read_bytes()
        if file.name.startswith("train-labels"):
            content = {
                "truncated": content[:500],
                "foreign": gzip.compress(b"something else"),
                "missing": None,
            }[fault]
        if content is not None:
            (mirror / file.name).write_bytes(content)
    with (
        pytest.warns(UserWarning, match="mirror .* failed"),
        pytest.raises(NetworkError),
    ):
        fashion_mnist.load("full")
    left = {path.name for path in (tmp_path / "data" / "fashion-mnist").iterdir()}
    assert left <= {"train-images-idx3-ubyte.gz"}  # which was sound


def test_a_silent_mirror_costs_no_more_than_the_seconds_allowed(monkeypatch, tmp_path):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (url, url))
        start = time.monotonic()
        with pytest.raises(NetworkError):
            fashion_mnist.download(tmp_path, seconds=0.5)
        assert time.monotonic() - start < 4.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images_idx3_ubyte": lambda b: b[:-1]},
            r"has 4,704,015 bytes",
        ),
        ({"train_images_idx3_ubyte": lambda b: b + b"0"}, r"has more bytes, expected"),
        ({"train_labels_idx1_ubyte": lambda b: b[:-1] + b"\7"}, r"SHA-256 .* expected"),
        ({"t10k_labels_idx1_ubyte": lambda b: b"PK\3\4" + b[4:]}, r"not an IDX file"),
        ({"t10k_labels_idx1_ubyte": lambda b: b""}, r"not an IDX file"),
        ({"t10k_images_idx3_ubyte": lambda b: None}, r"has no t10k-images-idx3-ubyte"),
    ],
)
def test_a_wrong_file_is_named_with_what_it_is_and_should_be(
    changes, message, tmp_path, small
):
    folder = fill(tmp_path / "folder", **changes)
    with pytest.raises(DataError, match=message) as error:
        fashion_mnist.load(str(folder))
    assert "\n" not in str(error.value)
    (name,) = changes
    assert name.replace("_", "-") in str(error.value)


def test_labels_of_another_length_than_the_images_are_named(tmp_path, small):
    file = fashion_mnist.MINI[1]._replace(shape=(5999,))
    folder = fill(
        tmp_path / "folder", train_labels_idx1_ubyte=lambda b: file.header + b[9:]
    )
    with pytest.raises(DataError, match=r"holds 5,999 labels, expected 6,000 labels"):
        fashion_mnist.load(str(folder))


def test_a_truncated_gzip_file_is_named(tmp_path, small):
    folder = fill(tmp_path / "folder")
    packed = (fashion_mnist.SHIPPED_FOLDER / f"{NAMES[0]}.gz").read_bytes()
    (folder / NAMES[0]).unlink()
    (folder / f"{NAMES[0]}.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is cut short"):
        fashion_mnist.load(str(folder))


def test_a_file_of_noise_named_gz_is_named(tmp_path):
    path = tmp_path / f"{NAMES[0]}.gz"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="not a sound gzip file"):
        idx.read(path, fashion_mnist.MINI[0])


def test_a_packed_bomb_is_not_unpacked(tmp_path):
    file = fashion_mnist.MINI[1]
    path = tmp_path / f"{file.name}.gz"
    path.write_bytes(gzip.compress(file.header + bytes(50_000_000)))
    with pytest.raises(DataError, match="has more bytes, expected 6,008"):
        idx.read(path, file)


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        fashion_mnist.load(str(tmp_path / "missing"))
    with pytest.raises(DataError, match=f"has no {NAMES[0]}"):
        fashion_mnist.load(str(tmp_path))


def test_a_damaged_set_is_named_and_passed_over(tmp_path, small):
    fill(tmp_path / "data", train_labels_idx1_ubyte=lambda b: b[:-1])
    sound = fill(tmp_path / "system")
    with pytest.warns(UserWarning, match=r"not used: .*train-labels.* 6,007 bytes"):
        assert fashion_mnist.load("auto").folder == sound


def test_full_with_nothing_but_a_damaged_set_is_bad_data(tmp_path, small):
    fill(tmp_path / "data", train_labels_idx1_ubyte=lambda b: b[:-1])
    with (
        pytest.warns(UserWarning, match="not used"),
        pytest.raises(DataError, match="6,007"),
    ):
        fashion_mnist.load("full")


def test_the_shipped_tenth_is_what_its_script_makes_of_the_whole_set(whole_set):
    mini = fashion_mnist.load("mini")
    for ours, made in zip(mini[:4], mini_arrays(whole_set), strict=True):
        np.testing.assert_array_equal(ours, made)
