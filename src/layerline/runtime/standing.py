"""What the nodes of a run are about, for whoever shows it.

    events of this process ─► Standings ─► a fact in the store, one a process ─► rank 0's `look`

Problem: a node that waits for a message says nothing, and a minibatch must cost nothing but a count. Solution: what a
node does is kept as one small fact, renewed where a row is come to, begun and done, and twice a second in between;
whoever wants to know looks, on a thread of its own with a store client of its own, since one that waits blocks others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from layerline.errors import PeerLost
from layerline.events import EpochDone, Event, Minibatch, Row, RowBegins, RowDone, RowWaits, Standing
from layerline.runtime.members import Board
from layerline.runtime.pipeline import Pipeline
from layerline.schedules.plan import Action

SECONDS_BETWEEN = 0.5
Facts = dict[str, dict[str, object]]
About = TypeVar("About", covariant=True)
"""What is known of a node."""


class Looked(Protocol[About]):
    """Knows what the nodes of this process are about."""

    def look(self) -> Mapping[int, About]:
        """Of each node here; may be called by any thread."""


class Standings:
    """Of the nodes of this process. `post`: where to leave what changed, for another process to find."""

    def __init__(self, pipeline: Pipeline, post: Callable[[Facts], None] | None = None) -> None:
        self._plan, self._post = pipeline.plan, post
        epochs = pipeline.run.epochs_per_chapter
        by_batch = self._plan.by_batch
        self._seldom = SECONDS_BETWEEN if by_batch else 0.0  # rows may be a thousand a second
        self._minibatches = {n: 1 if by_batch else node.batches * epochs for n, node in pipeline.nodes.items()}
        self._rows = {number: np.flatnonzero(self._plan.node == number) for number in pipeline.nodes}
        self._here: dict[int, Standing] = {}
        for node in pipeline.nodes:
            rows, done = self._rows[node].tolist(), pipeline.slots.done(node)
            left = [row for row in rows if row not in done and self._plan.action[row] != Action.FORWARD]
            self._here[node] = Standing(min(left, default=len(self._plan)), True, 0.0, 0.0, None)
        self._row = RowBegins(0, 0)
        self._since, self._busy, self._count, self._due, self._told = 0.0, 0.0, 0, 0.0, -math.inf
        self._tell()

    def hear(self, event: Event) -> None:
        """What happened here."""
        if isinstance(event, Minibatch):
            self._count += 1
            if time.monotonic() >= self._due:
                self._go_on()
        elif isinstance(event, EpochDone):
            self._count += 1
            if self._plan.stage[self._row.row] == self._plan.stages - 1:
                self._set(self._row.node, latest=event.rows[-1])
            if time.monotonic() >= self._due:
                self._go_on()
        elif isinstance(event, RowWaits):
            self._set(event.node, row=event.row, waits=True, share=0.0)
            self._tell()
        elif isinstance(event, RowBegins):
            self._row, self._since, self._count = event, time.monotonic(), 0
            self._busy = self._here[event.node].busy
            self._set(event.node, row=event.row, waits=False, share=0.0)
            self._tell()
        elif isinstance(event, RowDone):
            later = self._rows[event.node]
            place = int(np.searchsorted(later, event.row, side="right"))
            following = int(later[place]) if place < len(later) else len(self._plan)
            busy = self._busy + time.monotonic() - self._since
            self._set(event.node, row=following, waits=True, share=0.0, busy=busy)
            self._tell()

    def look(self) -> Mapping[int, Standing]:
        """Of each node here."""
        return dict(self._here)

    def _go_on(self) -> None:
        """In the middle of a row."""
        node = self._row.node
        share = min(1.0, self._count / self._minibatches[node])
        self._set(node, share=share, busy=self._busy + time.monotonic() - self._since)
        self._tell()

    def _set(self, node: int, **changes: object) -> None:
        self._here[node] = replace(self._here[node], **changes)  # type: ignore[arg-type]

    def _tell(self) -> None:
        now = time.monotonic()
        if self._post and (now - self._told >= self._seldom or self._is_over()):
            self._told = now
            self._post({str(node): asdict(standing) for node, standing in self._here.items()})
        self._due = time.monotonic() + SECONDS_BETWEEN

    def _is_over(self) -> bool:
        return all(standing.row == len(self._plan) for standing in self._here.values())


def looking(
    here: Looked[About], board: Board, ranks: int, read: Callable[[dict[str, Any]], About]
) -> Callable[[], Mapping[int, About]]:
    """What all nodes are about, for rank 0: those here, and what the others left on a board not used elsewhere.

    `read`: of a fact about a node. Where the store is gone, what was known last.
    """
    known: dict[int, About] = {}

    def look() -> Mapping[int, About]:
        with suppress(PeerLost):
            for rank in range(1, ranks):
                facts = board.look(f"standing {rank}")
                known.update({int(node): read(fact) for node, fact in (facts or {}).items()})
        known.update(here.look())
        return dict(known)

    return look


def standing_of(fact: dict[str, Any]) -> Standing:
    """What `Standings` posted of a node."""
    latest = fact["latest"]
    return Standing(**fact | {"latest": Row(**latest) if latest else None})
