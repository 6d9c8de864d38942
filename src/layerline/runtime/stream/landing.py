"""Where minibatches of the node below land, until the node itself looks: the newest few, and marks between them.

Problem: a node that computes for long must keep nobody waiting and no more than its replay buffer would hold. Solution:
the thread that receives puts minibatches here, and of more than M in a row drops the oldest, as the buffer would.
Marks stay where they came, between what was sent before and after them.

    7 8 ■ 9 10 11     M = 2: 9 is dropped; 7 and 8 go into the buffer, the node saves itself, 10 and 11 go in
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from torch import Tensor

from layerline.runtime.fitting import fit, reading
from layerline.runtime.stream.free import LABELS
from layerline.runtime.stream.wire import unpacked_parcel
from layerline.transport.boundary import Parcel, overtaken
from layerline.transport.message import Key

Arrival = tuple[int, Parcel]
"""The step of the block below that made it, and what came."""
Mark = tuple[int, int]
"""The number of a snapshot, and what to do with it."""


class Landing:
    """Of one node. `put…` are called by the receiving thread, `take` by the node; `news` after every arrival."""

    def __init__(self, size: int, news: Callable[[], None]) -> None:
        self._size, self._news = size, news
        self._lock = Lock()
        self._before: list[tuple[list[Arrival], Mark]] = []
        self._since: list[Arrival] = []
        self.dropped = 0

    def put(self, key: Key, tensors: dict[str, Tensor]) -> None:
        """A minibatch arrived. LayerlineError if it is none."""
        arrival = key.row, unpacked_parcel(tensors)
        fit("a minibatch", arrival[1], {LABELS: None})
        with self._lock:
            self._since.append(arrival)
            if len(self._since) > self._size:
                (_, oldest), (step, next_one), *others = self._since
                self._since = [(step, overtaken(oldest, next_one)), *others]
                self.dropped += 1
        self._news()

    def put_mark(self, key: Key, tensors: dict[str, Tensor]) -> None:
        """A mark arrived. LayerlineError if it is none."""
        with reading("a mark"):
            what = int(tensors["mark"])
        with self._lock:
            self._before.append((self._since, (key.row, what)))
            self._since = []
        self._news()

    def take(self) -> tuple[list[Arrival], Mark | None]:
        """What arrived, oldest first, up to the first mark; the rest stays for the next time."""
        with self._lock:
            if self._before:
                return self._before.pop(0)
            arrivals, self._since = self._since, []
            return arrivals, None
