"""Large payloads between processes of one host, through memory both can see.

Problem: through a socket every byte is copied into the kernel and out again. Solution: one file in memory for each
direction of a pair, mapped by both, written and read in turns, and kept mapped: a fresh file for every message would
cost more in page faults than the socket does.

1. The sender copies the payload into its segment and sends the header, which names the segment.
2. The receiver copies it out, then lets the sender go, which waits for that before it writes again.

The files live in a folder of the launcher's. The reader removes a file's name as soon as it has mapped it; what a
killed process left goes when the launcher ends, or when the next one starts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from layerline.errors import LayerlineError

SMALLEST = 2**18
"""Bytes from which a payload goes this way; below, the socket is as quick."""
HOME = Path("/dev/shm")
_PREFIX = f"layerline-{os.getuid()}-"


@final
class Outlet:
    """The writing end of one direction. `name`: generation and ranks, alike at both ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._number = 0
        self._segment = torch.empty(0, dtype=torch.uint8)

    def write(self, payload: Tensor) -> int:
        """Copy a payload into the segment. Its number; 0 where the payload is small, or no memory is left for it."""
        size = payload.numel()
        if size < SMALLEST:
            return 0
        if size > self._segment.numel():
            path = self._folder / f"{self._name}-{self._number + 1}"
            try:
                _allocate(path, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    path.unlink(missing_ok=True)
                    return 0
                raise
            self._number += 1
            self._segment = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
        self._segment[:size].copy_(payload)
        return self._number


@final
class Inlet:
    """The reading end."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._number = 0
        self._segment = torch.empty(0, dtype=torch.uint8)

    def read(self, number: int, size: int) -> Tensor:
        """A copy of the payload. OSError where there is no such segment."""
        if number != self._number:
            path = self._folder / f"{self._name}-{number}"
            self._segment = torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
            path.unlink()
            self._number = number
        return self._segment[:size].clone()


def _allocate(path: Path, size: int) -> None:
    """A file whose memory is really there: writing to a mapped one beyond it would kill the process."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def identity(folder: Path) -> str:
    """The same text in two processes exactly if they see the same folder of the same host."""
    status = folder.stat()
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text().strip() if boot.exists() else ''}:{status.st_dev}:{status.st_ino}"


@contextmanager
def shared_folder(home: Path = HOME) -> Iterator[Path]:
    """A folder in memory for the segments of one run; the launcher holds it and removes it at its end.

    Also removes the folders of launchers of the same user that were killed. LayerlineError where `home` is not there.
    """
    if not home.is_dir():
        raise LayerlineError(f"there is no {home} on this system", hint="leave the shared memory out")
    for old in home.glob(f"{_PREFIX}*"):
        with suppress(OSError), (old / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
