"""Files that are either whole or not there: write beside, flush to disk, rename."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerline.errors import LayerlineError, UsageError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well; on any error `path` stays as it was.

    LayerlineError for a full disk or a folder that cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with suppress(OSError):  # the error that counts is the first one
            beside.unlink(missing_ok=True)


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
