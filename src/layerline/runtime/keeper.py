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
    facts: dict[str, Any]
    written: Future[None]


class Keeper:
    """Writes results of this process's rows; `settled` are those on disk and noted, since somebody last took them."""

    def __init__(self, slots: Slots) -> None:
        self.settled: list[int] = []
        self._slots, self._pending = slots, deque[_Pending]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    def keep(self, row: int, place: Place, result: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Begin to write a result; its tensors must not change before it is settled."""
        self._pending.append(_Pending(row, place, facts, self._thread.submit(self._slots.save, row, result)))

    def settle(self, place: Place | None = None, *, everything: bool = False) -> None:
        """Note what is written; wait for all results of a place, or for everything. LayerlineError on a full disk."""
        while self._pending:
            wanted = everything or any(each.place == place for each in self._pending)
            first = self._pending[0]
            if not wanted and not first.written.done():
                return
            first.written.result()
            self._pending.popleft()
            self._slots.tell(first.place[0], first.facts)
            self.settled.append(first.row)

    def close(self) -> None:
        """Settle everything, and end the thread."""
        try:
            self.settle(everything=True)
        finally:
            self._thread.shutdown()
