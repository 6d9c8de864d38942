"""The bytes between two processes: a gloo group of two ranks.

Facts that shape it: gloo's default timeout is half an hour, so every operation is given one. A timeout closes all
connections of a group, so it may only mean that the peer is lost; a group of two confines that to the pair.

Problem: gloo moves bytes when both sides have asked for it. Where the receiver asks last, the link is crossed three
times: "I have something", "send it", the bytes; on one with 20 ms of delay a message of header, table and payload took
128 ms. Solution: receives are always posted ahead, so that a piece leaves as soon as it is there. gloo does not tell
how long it was; that follows from what was sent before it.

    sent together       in one piece, if they fit:      header table payload
                        else each in pieces of its own: header │ table │ payload │ payload │ …

Large tensors go in several pieces, so that "no piece within the timeout" tells a stopped peer from a slow link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]

PIECE = 2**22
"""Bytes that have to arrive within the timeout: 4 MiB, 0.34 s at 100 Mbit/s."""
POSTED = 8
"""Pieces that may be on their way: 32 MiB, so that a delay of 40 ms there and back allows 800 MB/s."""
_PIECES, _MEETING = 0, 1  # gloo's tags


@final
class Channel:
    """One side (0 or 1) of a connection of two processes; both directions may be used at once.

    `host`: this side's own address, to listen on. `timeout`: seconds to wait for the other side to come; `silence`:
    seconds for every later operation. TimeoutError past them, ConnectionError where the other side is gone.
    """

    def __init__(self, store: Store, name: str, side: int, *, host: str, timeout: float, silence: float) -> None:
        # Not in torch's annotations: init_process_group can neither give a group an address nor leave it to two.
        gloo: Any = ProcessGroupGloo
        options = gloo._Options()
        options._timeout = timedelta(seconds=timeout)
        options._devices = [gloo.create_device(hostname=host)]
        with _told_apart():
            self._group = gloo(PrefixStore(name, store), side, 2, options)
        self._other = 1 - side
        self._silence = timedelta(seconds=silence)

        self._piece, self._read = torch.empty(PIECE, dtype=torch.uint8), 0
        self._posted: deque[tuple[Tensor, Any]] = deque()
        for _ in range(POSTED - 1):
            self._post(torch.empty(PIECE, dtype=torch.uint8))

    def send(self, *parts: Tensor) -> None:
        """Send flat uint8 tensors together; returns when they are gone, which is not yet when they are read."""
        if sum(part.numel() for part in parts) <= PIECE:
            parts = (torch.cat(parts),)
        with _told_apart():
            pieces = [piece for part in parts if part.numel() for piece in part.split(PIECE)]
            for work in [self._group.send([piece], self._other, _PIECES) for piece in pieces]:
                work.wait(self._silence)

    def receive(self, size: int) -> Tensor:
        """Wait for what the other side sends next. Its first part, `size` bytes, to be read before the next call."""
        self._piece, self._read = self._next(self._piece), size
        return self._piece[:size]

    def rest(self, *sizes: int) -> list[Tensor]:
        """The other parts of what was sent together, of these many bytes; copies."""
        if self._read + sum(sizes) <= PIECE:
            return [part.clone() for part in self._piece[self._read : self._read + sum(sizes)].split(sizes)]
        return [self._whole(size) for size in sizes]

    def wait_for_reader(self) -> None:
        """Returns when the other side has come to `let_writer_go`."""
        with _told_apart():
            self._group.send([torch.zeros(1, dtype=torch.uint8)], self._other, _MEETING).wait(self._silence)

    def let_writer_go(self) -> None:
        """The other side's `wait_for_reader` may return."""
        with _told_apart():
            self._group.recv([torch.zeros(1, dtype=torch.uint8)], self._other, _MEETING).wait(self._silence)

    def _whole(self, size: int) -> Tensor:
        flat = torch.empty(size, dtype=torch.uint8)
        for part in flat.split(PIECE) if size else ():
            self._piece = self._next(self._piece)
            part.copy_(self._piece[: part.numel()])
        return flat

    def _next(self, spent: Tensor) -> Tensor:
        """The piece that comes next. `spent`: the one before, which may be written to again."""
        self._post(spent)
        piece, work = self._posted.popleft()
        with _told_apart():
            work.wait(self._silence)
        return piece

    def _post(self, buffer: Tensor) -> None:
        with _told_apart():
            self._posted.append((buffer, self._group.recv([buffer], self._other, _PIECES)))


@contextmanager
def _told_apart() -> Iterator[None]:
    """gloo says everything by RuntimeError; a closure after a timeout speaks of the timeout, too."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        late = "timed out" in text.lower() or "timeout" in text.lower()
        raise (TimeoutError if late else ConnectionError)(text) from None


def as_tensor(content: bytes) -> Tensor:
    """Bytes as a flat uint8 tensor, a copy."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def as_bytes(flat: Tensor) -> bytes:
    """A flat uint8 tensor as bytes, a copy."""
    return flat.numpy().tobytes()
