"""Files that are either whole or not there: write beside, flush to disk, rename.

"Beside" is a folder of the writer's own: of two processes that write the same file, as one of an earlier start that is
not gone yet may do, neither touches what the other writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerline.errors import LayerlineError, UsageError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_BEGIN, _END = ".", ".part"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well; on any error `path` stays as it was.

    Several processes may do so at once: one of them is the last. LayerlineError for a full disk or a folder that cannot
    be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path.parent) as folder:
            beside = folder / path.name
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
            _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder in `parent` for this process alone, and gone afterwards.

    It is locked until then: what a killed process left is not, and `sweep` tells them apart.
    """
    folder, lock = _locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the error that counts is the first one
        if lock is not None:
            os.close(lock)


def sweep(parent: Path) -> None:
    """Delete what killed processes left half written in a folder, and nothing that anybody still writes to."""
    for folder in parent.glob(f"{_BEGIN}*{_END}"):
        with suppress(OSError):  # somebody else was quicker; or a file system without locks, where all of it stays
            lock = os.open(folder, os.O_RDONLY)
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def _locked(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and the descriptor that holds its lock; None where there are no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_BEGIN, suffix=_END, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept before it was locked
        except OSError:
            return folder, None
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)  # being swept
            continue
        except OSError:
            return folder, lock
        if folder.exists():
            return folder, lock
        os.close(lock)


def _flush_folder(folder: Path) -> None:
    """Bring the new name to disk before anything else happens, such as the deletion of an older file."""
    with suppress(OSError):  # Windows opens no folders, some file systems flush none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a folder's lock. UsageError where another process holds it: two runs would delete each other's files."""
    if fcntl is None:
        yield
        return
    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise cannot_write(folder / ".lock", error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another process is training in {folder}", hint="wait until it has ended, or choose another folder"
            ) from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave the old one."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def cannot_write(path: Path, error: OSError) -> LayerlineError:
    """The error for a path that cannot be written."""
    hint = (
        "free some space, then: layerline resume RUN_DIR"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "choose another folder: --out-dir FOLDER"
    )
    return LayerlineError(f"cannot write {path}: {error.strerror or error}", hint=hint)


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
