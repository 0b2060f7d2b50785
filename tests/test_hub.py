"""The data hub: no wrong file is kept, and nothing half-written is left."""

import hashlib
import io
import os
import re
import tarfile
import zipfile

import pytest
from served import FileServer
from support import one_line, zipped

from ch4jax.data import _download, hub
from ch4jax.errors import DataError, NetworkError

CONTENT = b"Id,SalePrice\n1,208500\n" * 1000


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder, next to which nothing may appear."""
    monkeypatch.setenv("CH4JAX_DATA", str(tmp_path / "outer" / "cache"))
    return tmp_path / "outer" / "cache"


@pytest.fixture
def server():
    with FileServer() as server:
        yield server


@pytest.fixture
def offer(server, monkeypatch, cache):
    """Put a file on the server and into `DATA_HUB`; return the folder of its own."""

    def offer(path, content, name="thing"):
        sha1 = hashlib.sha1(content).hexdigest()
        monkeypatch.setitem(hub.DATA_HUB, name, hub.HubFile(server.url + path, sha1))
        server.files[path] = content
        return cache / f"{name}-{sha1[:8]}"

    return offer


def left_in(folder):
    """Return the files under `folder`, by path; hidden ones too."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()
    )


def test_a_file_is_downloaded_once_and_then_comes_from_the_cache(offer, server, cache):
    place = offer("table.csv", CONTENT)
    path = hub.download("thing")
    assert path == place / "table.csv"
    assert path.read_bytes() == CONTENT
    assert hub.download("thing") == path
    assert server.asked == ["table.csv"]
    assert left_in(cache.parent.parent) == [f"outer/cache/{place.name}/table.csv"]


def test_everything_is_downloaded_into_another_folder(offer, tmp_path, monkeypatch):
    place = offer("table.csv", CONTENT).name
    entry = tuple(hub.DATA_HUB["thing"])  # as the book writes it
    monkeypatch.setattr(hub, "DATA_HUB", {"thing": entry})
    here = tmp_path / "here"
    assert hub.download_all(here) == [here / place / "table.csv"]


def test_entries_whose_urls_end_alike_and_new_contents_have_places_of_their_own(offer):
    first, second = zipped({"a": b"1"}), zipped({"a": b"2"})
    offer("v1/thing", first, "one")
    offer("v2/thing?raw=1", second, "two/2")
    folders = [hub.download_extract(name) for name in ("one", "two/2")]
    assert [(folder / "a").read_bytes() for folder in folders] == [b"1", b"2"]
    offer("v1/thing", second, "one")
    assert (hub.download_extract("one") / "a").read_bytes() == b"2"


def test_what_another_job_has_unpacked_in_the_meantime_is_used(offer, monkeypatch):
    place = offer("a.zip", zipped({"a.csv": b"1"}))
    is_tar = tarfile.is_tarfile

    def slow(archive):
        (place / "unpacked").mkdir()
        (place / "unpacked" / "a.csv").write_bytes(b"1")
        return is_tar(archive)

    monkeypatch.setattr(tarfile, "is_tarfile", slow)
    assert left_in(hub.download_extract("thing")) == ["a.csv"]
    assert left_in(place) == ["a.zip", "unpacked/a.csv"]


@pytest.mark.parametrize(
    ("scheme", "name", "value"),
    [("http", "http_proxy", "http://[::1"), ("https", "REQUESTS_CA_BUNDLE", "/no.pem")],
)
def test_a_proxy_or_bundle_that_cannot_be_used_is_a_failed_download(
    scheme, name, value, monkeypatch
):
    monkeypatch.setenv(name, value)
    file = hub.HubFile(f"{scheme}://192.0.2.1/table.csv", "0" * 40)
    monkeypatch.setitem(hub.DATA_HUB, "thing", file)
    with pytest.raises(NetworkError, match="cannot be fetched"):
        hub.download("thing", seconds=0.1)


def test_a_line_says_what_is_downloaded_how_large_and_where_to(offer, cache, caplog):
    caplog.set_level("INFO", "ch4jax")
    place = offer("table.csv", CONTENT)
    hub.download("thing")
    (record,) = [r for r in caplog.records if r.name == "ch4jax"]
    assert re.fullmatch(
        rf"downloading http://\S+/table.csv, {len(CONTENT):,} bytes, into {place}",
        record.getMessage(),
    )


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'nothing' is not in DATA_HUB, which has"):
        hub.download("nothing")


FAILURES = {  # how the server answers, the error, its message
    "missing": ({"files": {}}, NetworkError, r"404.*SHA-1 \w{40} .*table\.csv by"),
    "short": ({"withheld": 10}, NetworkError, r"by hand"),
    "wrong": ({"files": {"table.csv": b"?"}}, DataError, r"sha1:\w+ but got .*by hand"),
    "silent": ({"delay": 2.0}, NetworkError, "timed out.* by hand"),
    # After each byte: no chunk of 64 KiB comes in time.
    "trickling": ({"pause": 0.02}, NetworkError, r"takes longer than 0 s.* by hand"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_download_leaves_nothing_and_the_next_is_whole(
    case, offer, server, cache, monkeypatch
):
    answer, error, message = FAILURES[case]
    offer("table.csv", CONTENT)
    vars(server).update(answer)
    with monkeypatch.context() as patched:
        if case == "trickling":
            patched.setattr(_download, "DEADLINE", 0.1)
        with one_line(error, message):
            hub.download("thing", seconds=1.0)
    assert left_in(cache.parent.parent) == []
    vars(server).update(files={"table.csv": CONTENT}, withheld=0, delay=0, pause=0)
    assert hub.download("thing").read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_replaced_or_kept_offline(offer, server, cache):
    place = offer("table.csv", CONTENT)
    place.mkdir(parents=True)
    (place / "table.csv").write_bytes(CONTENT[:-1])
    server.files.clear()
    with pytest.raises(NetworkError, match=r"404.*put the file with SHA-1 .* by hand"):
        hub.download("thing")
    assert (place / "table.csv").read_bytes() == CONTENT[:-1]
    server.files["table.csv"] = CONTENT
    assert hub.download("thing").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_named(offer, cache):
    offer("table.csv", CONTENT)
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with one_line(DataError, r"table.csv cannot be written: "):
        hub.download("thing")


def tarred(members, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVES = {"a.zip": zipped, "a.tar.gz": tarred, "a.tar": lambda m: tarred(m, "w")}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_unpacked_beside_itself_once(name, offer, cache):
    place = offer(name, ARCHIVES[name]({"train.csv": b"1", "deep/er/test.csv": b"2"}))
    folder = hub.download_extract("thing")
    assert folder == place / "unpacked"
    assert left_in(folder) == ["deep/er/test.csv", "train.csv"]
    assert (folder / "deep/er/test.csv").read_bytes() == b"2"
    (folder / "train.csv").unlink()
    assert left_in(hub.download_extract("thing")) == ["deep/er/test.csv"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_top_folder_with_the_archives_name_is_the_folder(name, offer):
    place = offer(name, ARCHIVES[name]({"a/train.csv": b"1", "__MACOSX/a/.x": b""}))
    assert hub.download_extract("thing") == place / "unpacked" / "a"


@pytest.mark.parametrize("member", ["../out.csv", "a/../../out.csv"])
def test_a_tar_that_leads_outside_its_folder_is_refused(member, offer, cache):
    place = offer("a.tar.gz", tarred({"fine.csv": b"1", member: b"2"}))
    with pytest.raises(DataError, match=r"a\.tar\.gz is not a sound tar or zip: .*out"):
        hub.download_extract("thing")
    assert left_in(cache.parent.parent) == [f"outer/cache/{place.name}/a.tar.gz"]


def flagged(*flags, stored=CONTENT):
    """Return a zip whose entry has these bits in its flags, or this method."""
    content = bytearray(zipped({"a": stored}, zipfile.ZIP_STORED))
    for start, at in ((0, 6), (content.find(b"PK\1\2"), 8)):
        content[start + at], content[start + at + 2] = flags
    return bytes(content)


NO_ARCHIVES = {
    "empty": b"",
    "no archive": b"?" * 999,
    "a zip cut off": zipped({"a": CONTENT})[:-30],
    "a tar cut off": tarred({"a": os.urandom(20_000)})[:-9_000],
    "with a password": flagged(1, 0),
    "of a method nobody has": flagged(0, 99),
    "deflated, but is not": flagged(0, 8),
    "LZMA, but is not": flagged(0, 14, stored=b"\t\4\5\0" + 99 * b"\xff"),
}


@pytest.mark.parametrize("content", NO_ARCHIVES.values(), ids=NO_ARCHIVES)
def test_what_is_no_archive_leaves_no_folder(content, offer, cache):
    place = offer("a.zip", content)
    with one_line(DataError, r"a\.zip is not a sound tar or zip: "):
        hub.download_extract("thing")
    assert [path.name for path in place.iterdir()] == ["a.zip"]


def test_a_folder_inside_the_archive_may_be_asked_for(offer, cache):
    place = offer("VOC.zip", zipped({"VOCdevkit/VOC2012/a.txt": b"a"}))
    folder = hub.download_extract("thing", "VOCdevkit/VOC2012")
    assert folder == place / "unpacked" / "VOCdevkit" / "VOC2012"
    assert left_in(folder) == ["a.txt"]
    with pytest.raises(DataError, match="has no folder VOCdevkit/VOC2007"):
        hub.download_extract("thing", "VOCdevkit/VOC2007")
