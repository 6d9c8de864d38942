"""Downloads against a real server: everything that can go wrong, and that nothing wrong stays."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data.file_server import FileServer, Reply, file_server
from layerline.data.download import fetch
from layerline.data.sources import REMOTE_FILES, RemoteFile
from layerline.errors import DataError

GOOD = random.Random(0).randbytes(1_000_000)
OTHER = random.Random(1).randbytes(1_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as running:
        yield running


def wanted(*urls: str, limit: int = 2_000_000) -> RemoteFile:
    return RemoteFile(name="set.gz", urls=urls, limit=limit, sha256=hashlib.sha256(GOOD).hexdigest())


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/set.gz"


def test_good_file(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    url = server.serve("/set.gz", Reply(GOOD))
    path = fetch(wanted(url), tmp_path / "new" / "folder", progress=lambda *at: seen.append(at))
    assert path.read_bytes() == GOOD
    assert left_in(path.parent) == ["set.gz"]
    assert seen[0] == ("set.gz", 0, 1_000_000)
    assert seen[-1] == ("set.gz", 1_000_000, 1_000_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.gz").write_bytes(b"there")
    assert fetch(wanted(server.url), tmp_path).read_bytes() == b"there"
    assert server.requests == []


def test_md5_where_only_that_is_known(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD))
    file = replace(wanted(url), sha256=None, md5=hashlib.md5(GOOD).hexdigest())
    assert fetch(file, tmp_path).read_bytes() == GOOD
    with pytest.raises(DataError, match="wrong digest"):
        fetch(replace(file, name="other", md5="0" * 32), tmp_path)


def test_unknown_length(server: FileServer, tmp_path: Path) -> None:
    seen: list[int | None] = []
    url = server.serve("/set.gz", Reply(GOOD, length=False))
    fetch(wanted(url), tmp_path, progress=lambda _, __, total: seen.append(total))
    assert set(seen) == {None}


def test_redirection_is_followed(server: FileServer, tmp_path: Path) -> None:
    target = server.serve("/elsewhere", Reply(GOOD))
    url = server.serve("/set.gz", Reply(status=302, headers={"Location": target}))
    assert fetch(wanted(url), tmp_path).read_bytes() == GOOD


@pytest.mark.parametrize("scheme", ["file", "ftp"])
def test_other_protocols_are_refused(server: FileServer, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "local").write_bytes(GOOD)
    target = f"{scheme}://{tmp_path}/local"
    url = server.serve("/set.gz", Reply(status=302, headers={"Location": target}))
    with pytest.raises(DataError, match="no mirror"):
        fetch(wanted(target, url), tmp_path)


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_next_mirror_after_a_server_error(server: FileServer, tmp_path: Path, status: int) -> None:
    bad = server.serve("/bad", Reply(b"sorry", status=status))
    good = server.serve("/good", Reply(GOOD))
    assert fetch(wanted(bad, good), tmp_path).read_bytes() == GOOD
    assert [path for path, _ in server.requests] == ["/bad", "/good"]


def test_all_mirrors_fail_and_each_says_why(server: FileServer, tmp_path: Path) -> None:
    gone = server.serve("/gone", Reply(status=404))
    ill = server.serve("/ill", Reply(status=500))
    with pytest.raises(DataError) as caught:
        fetch(wanted(gone, ill), tmp_path)
    assert f"{gone}: the server answers 404" in str(caught.value)
    assert f"{ill}: the server answers 500" in str(caught.value)
    assert "--data-dir" in str(caught.value)
    assert [path for path, _ in server.requests] == ["/gone", "/ill", "/ill"]
    assert left_in(tmp_path) == []


def test_a_server_that_recovers(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(status=503), Reply(GOOD))
    assert fetch(wanted(url), tmp_path).read_bytes() == GOOD


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no connection") as caught:
        fetch(wanted(closed_port()), tmp_path, timeout=5)
    assert "check the network" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_server_that_never_answers(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(hang=True))
    with pytest.raises(DataError, match=r"no connection.*timed out"):
        fetch(wanted(url), tmp_path, timeout=0.2)


def test_truncated_file_is_not_taken(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD[:400_000]))
    with pytest.raises(DataError, match="wrong digest"):
        fetch(wanted(url), tmp_path)
    assert left_in(tmp_path) == []


def test_wrong_digest_then_next_mirror(server: FileServer, tmp_path: Path) -> None:
    bad = server.serve("/bad", Reply(OTHER))
    good = server.serve("/good", Reply(GOOD))
    assert fetch(wanted(bad, good), tmp_path).read_bytes() == GOOD


def test_wrong_digest_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wrong digest"):
        fetch(wanted(server.serve("/set.gz", Reply(OTHER))), tmp_path)
    assert left_in(tmp_path) == []


def test_broken_connection_is_resumed(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD, cut=600_000), Reply(GOOD))
    assert fetch(wanted(url), tmp_path).read_bytes() == GOOD
    assert server.requests == [("/set.gz", None), ("/set.gz", "bytes=600000-")]


def test_broken_connection_is_resumed_at_the_next_mirror(server: FileServer, tmp_path: Path) -> None:
    first = server.serve("/first", Reply(GOOD, cut=600_000))
    second = server.serve("/second", Reply(GOOD))
    assert fetch(wanted(first, second), tmp_path).read_bytes() == GOOD
    assert server.requests[1] == ("/second", "bytes=600000-")


def test_broken_connections_leave_the_part_for_the_next_call(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD, cut=300_000))
    with pytest.raises(DataError, match="the connection broke after 600,000 of 1,000,000 bytes"):
        fetch(wanted(url), tmp_path)
    assert (tmp_path / "set.gz.part").read_bytes() == GOOD[:600_000]
    server.serve("/set.gz", Reply(GOOD))
    assert fetch(wanted(url), tmp_path).read_bytes() == GOOD
    assert left_in(tmp_path) == ["set.gz"]


def test_a_server_without_ranges_starts_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.gz.part").write_bytes(GOOD[:5000])
    assert fetch(wanted(server.serve("/set.gz", Reply(GOOD, ranges=False))), tmp_path).read_bytes() == GOOD


def test_a_foreign_part_is_dropped(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.gz.part").write_bytes(OTHER[:5000])
    assert fetch(wanted(server.serve("/set.gz", Reply(GOOD))), tmp_path).read_bytes() == GOOD
    assert server.requests == [("/set.gz", "bytes=5000-"), ("/set.gz", None)]


def test_a_complete_part_only_gets_its_name(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.gz.part").write_bytes(GOOD)
    assert fetch(wanted(server.serve("/set.gz", Reply(GOOD))), tmp_path).read_bytes() == GOOD


def test_a_part_too_long_is_dropped(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.gz.part").write_bytes(GOOD + b"more")
    assert fetch(wanted(server.serve("/set.gz", Reply(GOOD))), tmp_path).read_bytes() == GOOD


@pytest.mark.parametrize("announced", [True, False])
def test_size_limit(server: FileServer, tmp_path: Path, announced: bool) -> None:
    seen: list[int] = []
    url = server.serve("/set.gz", Reply(GOOD, length=announced))
    with pytest.raises(DataError, match="more than the 500,000 bytes allowed"):
        fetch(wanted(url, limit=500_000), tmp_path, progress=lambda _, done, __: seen.append(done))
    assert max(seen, default=0) <= 500_000
    assert left_in(tmp_path) == []


def test_ctrl_c_leaves_the_part(server: FileServer, tmp_path: Path) -> None:
    def interrupt(_: str, done: int, __: int | None) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    url = server.serve("/set.gz", Reply(GOOD))
    with pytest.raises(KeyboardInterrupt):
        fetch(wanted(url), tmp_path, progress=interrupt)
    assert left_in(tmp_path) == ["set.gz.part"]
    there = (tmp_path / "set.gz.part").stat().st_size
    assert there > 500_000
    assert fetch(wanted(url), tmp_path).read_bytes() == GOOD
    assert server.requests[-1] == ("/set.gz", f"bytes={there}-")


def test_a_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written(.|\n)*XDG_CACHE_HOME"):
        fetch(wanted(server.serve("/set.gz", Reply(GOOD))), tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.serve("/set.gz", Reply(GOOD))
    with monkeypatch.context() as patch:
        original = Path.open

        def full(self: Path, mode: str = "r") -> object:
            stream = original(self, mode)
            with open("/dev/full", "r+b", buffering=0) as device:
                os.dup2(device.fileno(), stream.fileno())
            return stream

        patch.setattr(Path, "open", full)
        patch.setattr(os.path, "samestat", lambda *_: True)
        with pytest.raises(DataError, match="No space left"):
            fetch(wanted(url), tmp_path)
    assert not (tmp_path / "set.gz").exists()


def test_two_at_once_download_it_once(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD))
    waiting = threading.Event()
    threads = [threading.Thread(target=fetch, args=(wanted(url), tmp_path)) for _ in range(3)]

    def start_the_others(*_: object) -> None:
        if not waiting.is_set():
            waiting.set()
            for thread in threads:
                thread.start()

    fetch(wanted(url), tmp_path, progress=start_the_others)
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert left_in(tmp_path) == ["set.gz"]


def test_waiting_for_another_process_has_an_end(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/set.gz", Reply(GOOD))

    def second(*_: object) -> None:
        with pytest.raises(DataError, match="another process"):
            fetch(wanted(url), tmp_path, lock_timeout=0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(wanted(url), tmp_path, progress=second)


def test_every_published_file_has_mirrors_a_limit_and_a_digest() -> None:
    for files in REMOTE_FILES.values():
        for file in files:
            assert file.urls
            assert all(url.startswith(("https://", "http://")) and url.endswith(file.name) for url in file.urls)
            assert 0 < file.limit <= 1 << 28
            assert file.sha256 or file.md5
            assert len(file.sha256 or "0" * 64) == 64
            assert len(file.md5 or "0" * 32) == 32
