"""The bytes between two processes: a gloo group of two ranks.

Facts that shape it: gloo's default timeout is half an hour, so every operation is given one. A send is a rendezvous: it
completes when the other side receives; until then its tensor must live. A timeout closes all connections of a group,
so it may only mean that the peer is lost; a group of two confines that to the pair. Nothing here relies on tags.

Large tensors go in pieces, so that "no piece within the timeout" tells a stopped peer from a slow link.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]

PIECE = 2**24
"""Bytes that have to arrive within the timeout: 16 MiB, 1.4 s at 100 Mbit/s."""


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

    def send(self, flat: Tensor) -> None:
        """Send a flat uint8 tensor; returns when it is gone."""
        for piece in flat.split(PIECE) if flat.numel() else ():
            with _told_apart():
                self._group.send([piece], self._other, 0).wait(self._silence)

    def receive(self, size: int) -> Tensor:
        """Receive `size` bytes, the number that was sent."""
        flat = torch.empty(size, dtype=torch.uint8)
        for piece in flat.split(PIECE) if size else ():
            with _told_apart():
                self._group.recv([piece], self._other, 0).wait(self._silence)
        return flat


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
