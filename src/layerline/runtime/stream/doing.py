"""What the nodes of this process are doing, for whoever shows it.

    worker: begins ─ ends ─ waits ─►  Doing  ◄─ look, twice a second ─  a thread  ─►  a fact in the store ─► rank 0

Problem: a node has hundreds of rows a second, or waits for minutes and says nothing meanwhile. Solution: the worker
leaves a few words at each row, and no more; a thread looks at them now and then, also while the worker waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event as Flag
from threading import Thread
from typing import Any

from layerline.errors import PeerLost
from layerline.events import NodeStanding
from layerline.runtime.standing import SECONDS_BETWEEN, Facts
from layerline.runtime.stream.node import StreamNode
from layerline.schedules.plan import Action

_LAST_SECONDS = 2.0
"""For the thread to end, which may wait for a store that is gone."""


class Doing:
    """Of `nodes`, by number; `done`: how far a node has come. Told by one thread, looked at by another."""

    def __init__(self, nodes: Mapping[int, StreamNode], done: Callable[[int], int]) -> None:
        self._nodes, self._done = nodes, done
        self._began = time.perf_counter()
        self._before = {number: _busy(node) for number, node in nodes.items()}
        self._now: dict[int, tuple[Action | None, int | None, int | None, float]] = {}

    def begins(self, node: int, action: Action, block: int | None = None) -> None:
        """A node computes from now on, for a block if that is known."""
        self._now[node] = action, block, None, time.perf_counter()

    def ends(self, node: int) -> None:
        """It has computed, and noted for how long."""
        self._now[node] = None, None, None, 0.0

    def waits(self, node: int, other: int) -> None:
        """It cannot go on without a message from another."""
        self._now[node] = None, None, other, 0.0

    def look(self) -> Mapping[int, NodeStanding]:
        """What each node is about that has begun."""
        return {number: self._of(number) for number in self._nodes if number in self._now}

    def _of(self, number: int) -> NodeStanding:
        (action, block, other, since), now = self._now[number], time.perf_counter()
        busy = _busy(self._nodes[number]) - self._before[number] + (now - since if action is not None else 0.0)
        return NodeStanding(self._done(number), action, block, other, min(1.0, busy / (now - self._began)))


def _busy(node: StreamNode) -> float:
    """Seconds in which it computed; of a copy, since its worker may add a row meanwhile."""
    return sum(node.noted.busy.copy().values())


@contextmanager
def posting(doing: Doing, post: Callable[[Facts], None]) -> Iterator[None]:
    """Let another process know while the block runs, and once more when it is over. `post` has a thread of its own."""
    over = Flag()

    def repeat() -> None:
        with suppress(PeerLost):  # whoever trains will hear of it
            last = False
            while True:
                post({str(node): asdict(standing) for node, standing in doing.look().items()})
                if last:
                    return
                last = over.wait(SECONDS_BETWEEN)

    thread = Thread(target=repeat, name="standing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_LAST_SECONDS)


def standing_of(fact: Mapping[str, Any]) -> NodeStanding:
    """What `posting` posted of a node."""
    return NodeStanding(**fact)
