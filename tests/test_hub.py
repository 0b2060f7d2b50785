"""The data hub: nothing wrong is kept, and nothing half-written is left."""

import hashlib
import http.server
import io
import socket
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

from ch4jax.data import hub
from ch4jax.errors import DataError, NetworkError

CONTENT = b"Id,SalePrice\n1,208500\n" * 1000


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder, next to which nothing may appear."""
    monkeypatch.setenv("CH4JAX_DATA", str(tmp_path / "outer" / "cache"))
    return tmp_path / "outer" / "cache"


class Server:
    """A server on this machine whose answers a test sets by path.

    An answer is a status, the bytes sent, and how many bytes were promised.
    """

    def __init__(self):
        self.answers = {}
        self.asked = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                server.asked.append(self.path)
                status, body, promised = server.answers[self.path]
                self.send_response(status)
                self.send_header("Content-Length", str(promised))
                self.send_header("Location", self.path)
                self.end_headers()
                self.wfile.write(body)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serve = partial(self.http.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, path, body, *, status=200, promised=None):
        size = len(body) if promised is None else promised
        self.answers[path] = status, body, size


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def offer(server, monkeypatch):
    """Put a file on the server and into `DATA_HUB`."""

    def offer(path, content, *, sha1=None):
        sha1 = sha1 or hashlib.sha1(content).hexdigest()
        entry = hub.HubFile(f"{server.url}/{path}", sha1)
        monkeypatch.setitem(hub.DATA_HUB, "thing", entry)
        server.answer(f"/{path}", content)

    return offer


def left_in(folder):
    """Return the files under `folder`, by path; hidden ones too."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()
    )


def test_the_hub_knows_the_two_tables_by_the_sums_of_the_book():
    sums = {name: file.sha1 for name, file in hub.DATA_HUB.items()}
    assert sums == {
        "kaggle_house_train": "585e9cc93e70b39160e7921475f9bcd7d31219ce",
        "kaggle_house_test": "fa19780a7b011d9b009e8bff8e99922a8ee2eb90",
    }
    assert all(file.url.startswith(hub.DATA_URL) for file in hub.DATA_HUB.values())


def test_a_file_is_fetched_once_and_then_comes_from_the_cache(offer, server, cache):
    offer("table.csv", CONTENT)
    path = hub.download("thing")
    assert path == cache / "table.csv"
    assert path.read_bytes() == CONTENT
    assert hub.download("thing") == path
    assert server.asked == ["/table.csv"]
    assert left_in(cache.parent.parent) == ["outer/cache/table.csv"]


def test_another_cache_folder_may_be_named(offer, tmp_path):
    offer("table.csv", CONTENT)
    assert hub.download("thing", tmp_path / "here") == tmp_path / "here" / "table.csv"


def test_everything_in_the_hub_is_fetched(offer, server, monkeypatch):
    offer("table.csv", CONTENT)
    monkeypatch.setattr(hub, "DATA_HUB", {"thing": hub.DATA_HUB["thing"]})
    assert [path.name for path in hub.download_all()] == ["table.csv"]


def test_progress_is_shown_on_what_the_caller_lends(offer):
    class Bar:
        total = done = 0

        def update(self, n):
            self.done += n

        def reset(self):
            self.done = 0

        def close(self):
            pass

    offer("table.csv", CONTENT)
    bar = Bar()
    hub.download("thing", progressbar=bar)
    assert bar.total == bar.done == len(CONTENT)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'nothing' is not in DATA_HUB, which has"):
        hub.download("nothing")


def test_after_an_interrupted_download_the_next_one_is_whole(offer, server, cache):
    offer("table.csv", CONTENT)
    server.answer("/table.csv", CONTENT[:5000], promised=len(CONTENT))
    with pytest.raises(NetworkError):
        hub.download("thing")
    assert left_in(cache) == []
    server.answer("/table.csv", CONTENT)
    assert hub.download("thing").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"status": 404}, NetworkError, r"404.*put it at .*table\.csv by hand \(SHA-1"),
        ({"status": 500}, NetworkError, r"500.*by hand"),
        ({"status": 302}, NetworkError, r"Exceeded 30 redirects.*by hand"),
        ({"promised": 10**6}, NetworkError, r"by hand"),
        (
            {"body": b"other"},
            DataError,
            r"SHA-1 is [0-9a-f]{40}, expected [0-9a-f]{40}",
        ),
        ({"body": b""}, DataError, r"sent something else"),
    ],
    ids=["404", "500", "redirects", "short", "wrong", "empty"],
)
def test_a_faulty_server_leaves_nothing(answer, error, message, offer, server, cache):
    offer("table.csv", CONTENT)
    server.answer("/table.csv", **({"body": CONTENT} | answer))
    with pytest.raises(error, match=message) as raised:
        hub.download("thing")
    assert "\n" not in str(raised.value)
    assert left_in(cache.parent.parent) == []


def test_a_silent_server_is_not_waited_for(monkeypatch, cache):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/table.csv"
        monkeypatch.setitem(hub.DATA_HUB, "thing", hub.HubFile(url, "0" * 40))
        with pytest.raises(NetworkError, match="timed out"):
            hub.download("thing", seconds=0.2)
    assert left_in(cache) == []


def test_a_damaged_file_in_the_cache_is_named_and_fetched_again(offer, cache):
    offer("table.csv", CONTENT)
    cache.mkdir(parents=True)
    (cache / "table.csv").write_bytes(CONTENT[:-1])
    with pytest.warns(UserWarning, match=r"table\.csv is damaged: its SHA-1 is"):
        assert hub.download("thing").read_bytes() == CONTENT


def test_without_network_a_damaged_file_is_named_and_kept(offer, server, cache):
    offer("table.csv", CONTENT)
    server.answer("/table.csv", b"", status=500)
    cache.mkdir(parents=True)
    (cache / "table.csv").write_bytes(CONTENT[:-1])
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(DataError, match=r"table\.csv is damaged: its SHA-1 is .*, and"),
    ):
        hub.download("thing")
    assert (cache / "table.csv").read_bytes() == CONTENT[:-1]


def test_a_cache_that_cannot_be_written_is_named(offer, cache):
    offer("table.csv", CONTENT)
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache cannot be written: "):
        hub.download("thing")


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def tarred(members, mode="w:gz"):
    """Return a tar; a member that is a TarInfo has no content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                file.addfile(member)
    return stream.getvalue()


ARCHIVES = {"a.zip": zipped, "a.tar.gz": tarred, "a.tar": lambda m: tarred(m, "w")}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_unpacked_beside_itself(name, offer, cache):
    offer(name, ARCHIVES[name]({"train.csv": b"1", "deep/er/test.csv": b"2"}))
    folder = hub.download_extract("thing")
    assert folder == cache / "a"
    assert left_in(folder) == ["deep/er/test.csv", "train.csv"]
    assert (folder / "deep/er/test.csv").read_bytes() == b"2"


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_top_folder_of_the_right_name_is_not_nested(name, offer, cache):
    offer(name, ARCHIVES[name]({"book/train.csv": b"1"}))
    assert hub.download_extract("thing", "book") == cache / "book"
    assert left_in(cache) == sorted(["book/train.csv", name])


def test_a_folder_that_is_there_is_kept(offer, cache):
    offer("a.zip", zipped({"train.csv": b"1"}))
    folder = hub.download_extract("thing")
    (folder / "mine").write_text("kept")
    assert left_in(hub.download_extract("thing")) == ["mine", "train.csv"]


@pytest.mark.parametrize("folder", ["../a", "/etc", "a/b", ".."])
def test_a_folder_has_to_be_a_plain_name(folder, offer, tmp_path):
    offer("a.zip", zipped({"train.csv": b"1"}))
    with pytest.raises(ValueError, match="folder must be a plain name"):
        hub.download_extract("thing", folder)


OUTSIDE = str(Path(__file__).parent / "escaped.csv")
CLIMBING = ["../out.csv", "a/../../out.csv", OUTSIDE, "..\\out.csv", "C:\\out.csv"]


@pytest.mark.parametrize("member", CLIMBING)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_cannot_write_outside_its_folder(name, member, offer, cache):
    offer(name, ARCHIVES[name]({"fine.csv": b"1", member: b"2"}))
    with pytest.raises(DataError, match="leads out of it"):
        hub.download_extract("thing")
    assert left_in(cache.parent.parent) == [f"outer/cache/{name}"]
    assert not Path(OUTSIDE).exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, offer, cache):
    offer("a.tar.gz", tarred({"a": (kind, "/etc"), "a/passwd": b"2"}))
    with pytest.raises(DataError, match="'a', a link or a device"):
        hub.download_extract("thing")
    assert left_in(cache) == ["a.tar.gz"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused_before_it_is_unpacked(name, offer, cache, monkeypatch):
    monkeypatch.setattr(hub, "SMALL_BYTES", 10_000)
    offer(name, ARCHIVES[name]({"zeros": bytes(2_000_000)}))
    with pytest.raises(DataError, match="is a bomb"):
        hub.download_extract("thing")
    assert left_in(cache) == [name]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
@pytest.mark.parametrize("fault", ["cut", "foreign", "empty"])
def test_a_damaged_archive_leaves_no_folder(name, fault, offer, cache):
    whole = ARCHIVES[name]({"train.csv": CONTENT, "test.csv": CONTENT})
    content = {"cut": whole[: len(whole) // 2], "foreign": b"?" * 999, "empty": b""}
    offer(name, content[fault])
    with pytest.raises(DataError, match=rf"{name} (cannot|is neither)") as error:
        hub.download_extract("thing")
    assert "\n" not in str(error.value)
    assert left_in(cache) == [name]
    assert [path.name for path in cache.iterdir()] == [name]
