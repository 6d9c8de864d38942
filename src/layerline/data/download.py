"""Downloading a file so that it is either complete and right, or not there.

Problem: servers are down, connections break, files on a mirror may be others than those meant, somebody presses Ctrl-C,
and several processes may want the same file at once.

Solution: the bytes go into `<name>.part`, which one process at a time holds by a file lock. (1) What is there already
is continued by an HTTP Range request. (2) Every wait has an end. (3) A mirror that fails makes room for the next one;
after one round over all of them the ones that may recover are asked once more. (4) More bytes than the limit are
refused. (5) Only when the digest is right does the file get its name, in one step. Whatever ends the download earlier
leaves the `.part` for the next attempt, except bytes known to be wrong.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from layerline.data.sources import RemoteFile
from layerline.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: without the lock
    fcntl = None  # type: ignore[assignment]

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes so far and the bytes in all (None if the server doesn't say)."""

_CHUNK = 1 << 18
_ROUNDS = 2
_TIMEOUT = 30.0  # seconds, for connecting and for every read
_LOCK_TIMEOUT = 1800.0  # seconds another process may need for the same file


class _Failed(Exception):
    """One mirror did not deliver. `again`: it may on a later round."""

    def __init__(self, cause: str, *, again: bool) -> None:
        super().__init__(cause)
        self.again = again


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    progress: Progress | None = None,
    timeout: float = _TIMEOUT,
    lock_timeout: float = _LOCK_TIMEOUT,
) -> Path:
    """The file's path in `folder`, downloaded from the first mirror that delivers it, unless it is there already.

    Raises `DataError` where no mirror delivers, or the folder cannot be written. An exception from `progress`, and
    Ctrl-C, pass through and leave the `.part` file for the next call.
    """
    final, part = folder / file.name, folder / f"{file.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if final.exists():
            return final
        with _held(part, lock_timeout) as stream:
            if final.exists():  # another process has brought it meanwhile
                stream.truncate(0)
            else:
                _from_mirrors(file, stream, progress, timeout)
                part.replace(final)  # (5)
    except OSError as error:
        raise DataError(
            f"{error.filename or final}: cannot be written ({error.strerror or error})",
            hint="free space or fix permissions, or set XDG_CACHE_HOME to another folder",
        ) from error
    return final


def _from_mirrors(file: RemoteFile, stream: IO[bytes], progress: Progress | None, timeout: float) -> None:
    """Fills `stream` with the right bytes from one of the mirrors (3)."""
    causes: list[str] = []
    urls = list(file.urls)
    for _ in range(_ROUNDS):
        for url in list(urls):
            try:
                return _from_mirror(url, file, stream, progress, timeout)
            except _Failed as failure:
                causes.append(f"{url}: {failure}")
                if not failure.again:
                    urls.remove(url)
    lines = "\n    ".join(dict.fromkeys(causes))
    raise DataError(
        f"{file.name}: no mirror delivered it\n    {lines}",
        hint="check the network and try again, or put the file into a data folder (--data-dir, LAYERLINE_DATA)",
    )


def _from_mirror(url: str, file: RemoteFile, stream: IO[bytes], progress: Progress | None, timeout: float) -> None:
    continued = stream.seek(0, os.SEEK_END) > 0
    _transfer(url, file, stream, progress, timeout)
    if _digest_is_right(file, stream):
        return
    stream.truncate(0)
    if continued:  # the first part may have come from another file: once more from the start
        _transfer(url, file, stream, progress, timeout)
        if _digest_is_right(file, stream):
            return
        stream.truncate(0)
    raise _Failed("wrong digest: the server has another file, or a damaged one", again=False)


def _transfer(url: str, file: RemoteFile, stream: IO[bytes], progress: Progress | None, timeout: float) -> None:
    """Appends the file's missing bytes to `stream`; raises `_Failed` if they don't all come."""
    start = stream.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "layerline", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")  # (1)
    try:
        response = _opener().open(request, timeout=timeout)  # (2)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if _digest_is_right(file, stream):  # nothing comes after `start`, because we have it all
                    return
                stream.truncate(0)
                raise _Failed("the server cannot continue the partial file", again=True) from None
            raise _Failed(f"the server answers {error.code} {error.reason}", again=error.code >= 500) from None
    except urllib.error.URLError as error:
        raise _Failed(f"no connection ({error.reason})", again=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(f"no connection ({error or type(error).__name__})", again=True) from None
    with response:
        if start and not _continues(response, start):
            stream.seek(0)
            stream.truncate()
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        _copy(response, stream, start, total, file, progress)


def _continues(response: Any, start: int) -> bool:
    """Whether the answer holds the bytes from `start` on, not the file from its beginning."""
    place = str(response.headers.get("Content-Range", ""))
    return bool(response.status == http.HTTPStatus.PARTIAL_CONTENT) and place.startswith(f"bytes {start}-")


def _copy(
    response: Any, stream: IO[bytes], done: int, total: int | None, file: RemoteFile, progress: Progress | None
) -> None:
    while True:
        if max(done, total or 0) > file.limit:  # (4)
            stream.truncate(0)
            raise _Failed(f"the server sends more than the {file.limit:,} bytes allowed", again=False)
        if progress is not None:
            progress(file.name, done, total)
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(f"the connection broke after {done:,} bytes ({error})", again=True) from None
        if not chunk:
            break
        stream.write(chunk)
        done += len(chunk)
    stream.flush()
    if total is not None and done < total:
        raise _Failed(f"the connection broke after {done:,} of {total:,} bytes", again=True)


def _digest_is_right(file: RemoteFile, stream: IO[bytes]) -> bool:
    kind, expected = ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)
    digest = hashlib.new(kind, usedforsecurity=False)
    stream.seek(0)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest() == expected


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only, through the proxies of the environment; no `file:`, no `ftp:`, also not by redirection."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def _held(part: Path, timeout: float) -> Iterator[IO[bytes]]:
    """The `.part` file, open for appending and reading, held by this process alone. Removed at the end if empty."""
    deadline = time.monotonic() + timeout
    while True:
        with part.open("a+b") as stream:
            if not _lock(stream, part, deadline):
                continue
            try:
                yield stream
            finally:
                stream.flush()
                if os.fstat(stream.fileno()).st_size == 0:
                    part.unlink(missing_ok=True)
            return


def _lock(stream: IO[bytes], part: Path, deadline: float) -> bool:
    """Waits for the lock. False: the file has been renamed or removed meanwhile, so open it anew."""
    while fcntl is not None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DataError(
                    f"{part}: another process has been downloading this file for too long",
                    hint="end that process, or wait for it, and try again",
                ) from None
            time.sleep(0.1)
    try:
        return os.path.samestat(os.fstat(stream.fileno()), part.stat())
    except FileNotFoundError:
        return False
