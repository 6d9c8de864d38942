"""Results to disk beside compute.

Problem: writing a block with its moments and waiting until it is on the disk takes a part of a second, after every
slot. Solution: a thread writes, one result after the other, while the next row computes. A result is noted as done only
when it is on disk, and the block itself is not changed before: whoever is about to, settles it first.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from layerline.runtime.slots import Slots

Place = tuple[int, int]
"""A node and a stage."""


@dataclass(frozen=True)
class _Pending:
    row: int
    place: Place
    durable: bool
    written: Future[None]


_AHEAD = 1  # results being written, at most: what a kill can cost beside the slot in flight


class Keeper:
    """Writes and notes results of this process's rows, in their order.

    `settled` are those on disk since somebody last took them.
    """

    def __init__(self, slots: Slots) -> None:
        self.settled: list[int] = []
        self._slots, self._pending = slots, deque[_Pending]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    def keep(self, row: int, place: Place, result: dict[str, Tensor] | None, facts: dict[str, Any]) -> None:
        """Begin to write a result (None: there is none to keep) and to note the row.

        Its tensors must not change before it is settled.
        """
        while len(self._pending) >= _AHEAD:
            self._take_first()
        written = self._thread.submit(self._write, row, place[0], result, facts)
        self._pending.append(_Pending(row, place, result is not None, written))

    def settle(self, place: Place | None = None, *, everything: bool = False) -> None:
        """Wait for all results of a place, or for everything. LayerlineError on a full disk."""
        while self._pending:
            wanted = everything or any(each.place == place for each in self._pending)
            if not wanted and not self._pending[0].written.done():
                return
            self._take_first()

    def close(self) -> None:
        """Settle everything, and end the thread."""
        try:
            self.settle(everything=True)
        finally:
            self._thread.shutdown()

    def _take_first(self) -> None:
        first = self._pending[0]
        first.written.result()
        self._pending.popleft()
        if first.durable:
            self.settled.append(first.row)

    def _write(self, row: int, node: int, result: dict[str, Tensor] | None, facts: dict[str, Any]) -> None:
        if result is not None:
            self._slots.save(row, result)
        self._slots.tell(node, facts)
