"""The post between nodes: which rows send what to whom, and what is sent again after a restart.

Problem: a worker that starts again may have missed messages, and its peers may have lost theirs. Solution: results on
disk are sent again to every node that still needs them, decoded as its reader got them the first time. A codec that
sends differences starts again from what was sent last on every link, so later messages have the same bits, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from layerline.runtime.needs import last_slots
from layerline.runtime.training import below
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Column, Plan
from layerline.transport.base import Transport
from layerline.transport.codecs import EXACT
from layerline.transport.message import Key

Result = dict[str, Tensor]
FINAL = "final"
_SENT = "sent."


def links(plan: Plan, placement: Sequence[int], *, everywhere: bool = False) -> set[tuple[int, int]]:
    """Which nodes send to which; the finished blocks go to the first node of rank 0, or of every rank."""
    sent = messages(plan)
    numbers = np.unique(sent.sender.astype(np.int64) * plan.nodes + sent.receiver)
    found = {divmod(int(number), plan.nodes) for number in numbers}
    return found | {
        (int(plan.node[row]), home)
        for row in last_slots(plan)
        for home in _homes(placement, int(plan.node[row]), everywhere)
    }


def _homes(placement: Sequence[int], node: int, everywhere: bool) -> list[int]:
    """The nodes that a finished block of this one goes to: the first of every other process that wants it."""
    ranks = range(max(placement) + 1) if everywhere else [0]
    return [placement.index(rank) for rank in ranks if rank != placement[node]]


class Post:
    """Messages of the nodes of one process.

    `moments`: Adam's moments travel with a block to be trained. `everywhere`: finished blocks go to all processes.
    """

    def __init__(self, plan: Plan, transport: Transport, *, moments: bool, everywhere: bool = False) -> None:
        self.plan, self.transport, self.moments = plan, transport, moments
        self._sent = messages(plan)
        self._brought_home: Counter[int] = Counter()  # bytes of finished blocks, which no node of the plan asked for
        self._bytes_before: Counter[int] = Counter()
        self._homes = {row: _homes(transport.placement, int(plan.node[row]), everywhere) for row in last_slots(plan)}

    def _to(self, row: int) -> list[tuple[str, int]]:
        """What of a row's result goes to which nodes, in the order of sending."""
        begin, end = np.searchsorted(self._sent.source, (row, row + 1))
        columns = self._sent.carries[begin:end].tolist(), self._sent.receiver[begin:end].tolist()
        to = [(Carries(carries).name.lower(), receiver) for carries, receiver in zip(*columns, strict=True)]
        return to + [(FINAL, home) for home in self._homes.get(row, ())]

    def send(self, row: int, result: Result) -> Result:
        """A result to all nodes that need it. Returns it as it has to be kept: with what a lossy codec made of it."""
        node, kept = int(self.plan.node[row]), dict(result)
        for carries, to in self._to(row):
            before = self._counted(node)
            decoded = self.transport.at(node).send(self._key(row, carries), self._part(result, carries), to)
            if carries == FINAL:
                self._brought_home[node] += self._counted(node) - before
            if not self.transport.codec.lossless and carries != FINAL and self.plan.action[row] != Action.FORWARD:
                changed = {name for name in decoded if decoded[name].data_ptr() != result[name].data_ptr()}
                kept |= {f"{_SENT}{carries}.{name}": decoded[name] for name in changed}
        return kept

    def again(self, done: Iterable[int], still_to_do: set[int], load: Callable[[int], Result]) -> None:
        """After a restart: send what is on disk to those that need it, and bring codecs to where they were.

        A codec that sends differences starts from the last version that each link carried.
        """
        done = sorted(done)
        latest = {self._reference(row, carries, to): row for row in done for carries, to in self._to(row)}
        for row in done:
            kept: Result | None = None
            for carries, to in self._to(row):
                needed = any(user in still_to_do for user in self._users(row, carries, to))
                refers = carries in ("state", "weights") and latest[self._reference(row, carries, to)] == row
                if carries == FINAL or needed or (refers and not self.transport.codec.lossless):
                    kept = load(row) if kept is None else kept
                    part = self._part(kept, carries) | below(kept, f"{_SENT}{carries}.")
                    node = int(self.plan.node[row])
                    before = self._counted(node)
                    self.transport.at(node).resend(self._key(row, carries), part, to)
                    if carries == FINAL:
                        self._brought_home[node] += self._counted(node) - before

    def once_more(self, row: int, result: Result, still_to_do: Container[int]) -> None:
        """After a restart, where a codec remembers nothing: a result to all nodes that still need it."""
        node = int(self.plan.node[row])
        for carries, to in self._to(row):
            if carries == FINAL or any(user in still_to_do for user in self._users(row, carries, to)):
                before = self._counted(node)
                self.transport.at(node).send(self._key(row, carries), self._part(result, carries), to)
                self._brought_home[node] += (self._counted(node) - before) * (carries == FINAL)

    def _users(self, row: int, carries: str, to: int) -> list[int]:
        """The rows of a node that need what a message carries."""
        if carries == FINAL:
            return []
        order, source, target = self._edges
        edges = slice(*np.searchsorted(source, (row, row + 1)))
        meant = self.plan.carries[order[edges]] == Carries[carries.upper()]
        users: list[int] = target[edges][meant & (self.plan.node[target[edges]] == to)].tolist()
        return users

    @cached_property
    def _edges(self) -> tuple[NDArray[np.int64], Column, Column]:
        """The plan's edges by source: their places in the plan, sources and targets."""
        order = np.argsort(self.plan.source, kind="stable")
        return order, self.plan.source[order], self.plan.target[order]

    def _reference(self, row: int, carries: str, to: int) -> tuple[int, int, str, int]:
        """What a difference is taken from: a link, and what it carries of which stage."""
        return int(self.plan.node[row]), to, carries, int(self.plan.stage[row])

    def receive(self, row: int, what: Carries, node: int) -> Result:
        """Wait for a row's result at one of the nodes here."""
        key = self._key(row, what.name.lower())
        return self.transport.at(node).receive(key, int(self.plan.node[row]))

    def arrived(self, row: int, what: Carries, node: int) -> bool:
        """Whether a row's result is here, so that `receive` would not wait."""
        return self.transport.at(node).arrived(self._key(row, what.name.lower()), int(self.plan.node[row]))

    def check(self, row: int, node: int) -> None:
        """PeerLost where the process that has a row to do, and that a node here waits for, is gone."""
        self.transport.at(node).check(int(self.plan.node[row]))

    def final(self, row: int) -> Result:
        """Wait for a slot of the last chapter from another process."""
        home = self.transport.placement.index(self.transport.rank)
        return self.transport.at(home).receive(self._key(row, FINAL), int(self.plan.node[row]))

    def new_bytes(self, node: int) -> int:
        """What a node has sent to other nodes of the plan since the last call, headers included.

        At the first call, what was sent again after a restart is among it.
        """
        total = self._counted(node) - self._brought_home[node]
        before, self._bytes_before[node] = self._bytes_before[node], total
        return total - before

    def _counted(self, node: int) -> int:
        return sum(self.transport.at(node).bytes_sent.values())

    def transfers(self, node: int) -> list[list[Any]]:
        """Messages of a node since the last call: begin, end, row, what, peer, bytes, "send" or "receive"."""
        events = self.transport.at(node).events
        taken = events[: len(events)]
        del events[: len(taken)]
        return [[t.begin, t.end, t.key.row, t.key.carries, t.peer, t.nbytes, t.direction] for t in taken]

    def _key(self, row: int, carries: str) -> Key:
        return Key(row, carries, int(self.plan.stage[row]), int(self.plan.round[row]) // self.plan.rounds_per_chapter)

    def _part(self, result: Result, carries: str) -> Result:
        """What of a result travels under this name."""
        moments = carries == "state" and self.moments
        names = [name for name in result if not name.startswith(_SENT) and (moments or not name.startswith(EXACT))]
        return {name: result[name] for name in names}
