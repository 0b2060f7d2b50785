"""Fashion-MNIST: where `load` finds it, and that it never uses a wrong file."""

import gzip

import numpy as np
import pytest
from served import FileServer
from support import one_line

from ch4jax.data import cache_folder, fashion_mnist, idx
from ch4jax.errors import DataError, NetworkError

NAMES = [file.name for file in fashion_mnist.FULL]
# Read before a test changes where the data are looked for.
PLACES = cache_folder(), cache_folder() / "fashion-mnist", fashion_mnist.SYSTEM_FOLDER
LABELS = fashion_mnist.MINI[1]
PACKED, BOMB = (gzip.compress(bytes(n)) for n in (6008, 50_000_000))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data on this machine and no network, unless a test provides them."""
    monkeypatch.setenv("CH4JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())


@pytest.fixture
def small(monkeypatch):
    """Let the shipped tenth take the place of the whole set."""
    monkeypatch.setattr(fashion_mnist, "FULL", fashion_mnist.MINI)


def fill(folder, wrong=None, change=None):
    """Write the shipped files to `folder`, unpacked, with bytes of one changed."""
    folder.mkdir(parents=True)
    for name in NAMES:
        packed = (fashion_mnist.SHIPPED_FOLDER / f"{name}.gz").read_bytes()
        content = gzip.decompress(packed)
        (folder / name).write_bytes(change(content) if name == wrong else content)
    return folder


@pytest.fixture
def mirror(monkeypatch):
    """The one mirror: a server on this machine that has the shipped files."""
    with FileServer() as server:
        for file in fashion_mnist.SHIPPED_FOLDER.iterdir():
            server.files[file.name] = file.read_bytes()
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (server.url,))
        yield server


def test_the_shipped_tenth_is_balanced_and_sound():
    data = fashion_mnist.load("mini")
    assert data.name == "mini"
    for (images, labels), rows in ((data.train, 600), (data.test, 100)):
        assert (images.shape, images.dtype) == ((10 * rows, 28, 28), np.uint8)
        np.testing.assert_array_equal(np.bincount(labels), [rows] * 10)
    assert len(fashion_mnist.CLASSES) == 10


def test_pixels_become_floats_from_0_to_1():
    images = fashion_mnist.load("mini").train[0][:100]
    floats = fashion_mnist.to_float(images)
    assert floats.dtype == np.float32
    assert floats.min() == 0.0
    assert floats.max() == 1.0
    np.testing.assert_allclose(floats * 255, images, rtol=1e-6)


def test_without_files_auto_is_the_tenth_and_asks_no_mirror(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("http://127.0.0.1:1/",))
    assert fashion_mnist.load("auto").name == "mini"  # a failed mirror would warn


def test_without_files_and_network_full_says_what_to_do():
    with pytest.raises(NetworkError, match=r"put train-images.*\.gz.*into .*mini"):
        fashion_mnist.load("full")


@pytest.mark.parametrize("place", ["data", "data/fashion-mnist", "system"])
def test_the_whole_set_is_found_where_it_may_be(place, tmp_path, small):
    folder = fill(tmp_path / place)
    for source in ("auto", "full", str(folder)):
        data = fashion_mnist.load(source)
        assert data.name == "full"
        assert data.folder == folder


def test_full_downloads_into_the_cache_from_the_first_mirror_that_has_it(
    mirror, tmp_path, small, monkeypatch
):
    nothing = f"{mirror.url}nothing/"
    monkeypatch.setattr(fashion_mnist, "MIRRORS", (nothing, mirror.url))
    cache = tmp_path / "data" / "fashion-mnist"
    with pytest.warns(UserWarning, match=f"mirror {nothing} failed: 404"):
        assert fashion_mnist.load("full").folder == cache
    mirror.files.clear()
    for source in ("full", "auto"):
        assert fashion_mnist.load(source).folder == cache


def test_a_bad_mirror_leaves_nothing_behind(mirror, tmp_path, small):
    mirror.files["train-labels-idx1-ubyte.gz"] = gzip.compress(b"something else")
    failed = pytest.warns(UserWarning, match="mirror .* failed")
    with failed, pytest.raises(NetworkError):
        fashion_mnist.load("full")
    left = [path.name for path in (tmp_path / "data" / "fashion-mnist").iterdir()]
    assert left == ["train-images-idx3-ubyte.gz"]  # which was sound


def test_download_does_not_wait_for_a_silent_mirror(mirror, tmp_path):
    mirror.delay = 1.0
    failed = pytest.warns(UserWarning, match="timed out")
    with failed, pytest.raises(NetworkError):
        fashion_mnist.download(tmp_path, seconds=0.2)


def test_a_cache_that_cannot_be_written_is_named(mirror, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="data/fashion-mnist cannot be written: "):
        fashion_mnist.load("full")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "has 4,704,015 bytes"),
        ("train-images-idx3-ubyte", lambda b: b + b"0", "has more bytes, expected"),
        ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\7", "SHA-256 .* expected"),
        ("t10k-labels-idx1-ubyte", lambda b: b"PK\3\4" + b[4:], "SHA-256 .* expected"),
    ],
)
def test_a_wrong_file_is_named_with_what_it_is_and_should_be(
    name, change, message, tmp_path, small
):
    folder = fill(tmp_path / "folder", name, change)
    with one_line(DataError, f"{name}.* {message}"):
        fashion_mnist.load(str(folder))


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (PACKED[:-10], "cannot be read: Compressed file ended before"),
        (bytes(range(256)), "cannot be read: Not a gzipped file"),
        (BOMB, "has more bytes, expected 6,008"),  # and the rest stays packed
    ],
    ids=["truncated", "noise", "bomb"],
)
def test_a_bad_gzip_file_is_named(packed, message, tmp_path):
    path = tmp_path / f"{LABELS.name}.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=rf"{LABELS.name}\.gz {message}"):
        idx.read(path, LABELS)


def test_a_missing_folder_and_an_empty_one_have_different_messages(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        fashion_mnist.load(str(tmp_path / "missing"))
    with pytest.raises(DataError, match=f"has no {NAMES[0]}"):
        fashion_mnist.load(str(tmp_path))


def test_a_damaged_set_is_named_and_the_next_place_is_used(tmp_path, small):
    fill(tmp_path / "data", "train-labels-idx1-ubyte", lambda b: b[:-1])
    not_used = r"not used: .*train-labels.* 6,007 bytes"
    with pytest.warns(UserWarning, match=not_used):
        assert fashion_mnist.load("auto").name == "mini"
    warned = pytest.warns(UserWarning, match=not_used)
    with warned, pytest.raises(DataError, match="6,007"):
        fashion_mnist.load("full")
    sound = fill(tmp_path / "system")
    for source in ("auto", "full"):
        with pytest.warns(UserWarning, match=not_used):
            assert fashion_mnist.load(source).folder == sound


def test_the_shipped_tenth_is_the_documented_draw_from_the_whole_set():
    """The recipe of ch4jax/data/samples/README.md."""
    found = [p for p in PLACES if all(idx.find(p, file) for file in fashion_mnist.FULL)]
    if not found:
        pytest.skip("the whole Fashion-MNIST is not on this machine")
    whole_set = fashion_mnist.load(str(found[0]))
    rng = np.random.Generator(np.random.PCG64(0))
    mini = fashion_mnist.load("mini")
    for part, rows_per_class in ((slice(0, 2), 600), (slice(2, 4), 100)):
        images, labels = whole_set[part]
        drawn = [
            rng.choice(np.flatnonzero(labels == label), rows_per_class, replace=False)
            for label in range(10)
        ]
        rows = np.sort(np.concatenate(drawn))
        mini_images, mini_labels = mini[part]
        np.testing.assert_array_equal(mini_images, images[rows])
        np.testing.assert_array_equal(mini_labels, labels[rows])
