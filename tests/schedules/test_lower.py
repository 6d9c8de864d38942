"""Lowered plans end: nobody waits for ever, and every message is sent once, taken once, and used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings

from layerline.schedules.base import BaseSchedule
from layerline.schedules.federated import Federated
from layerline.schedules.lower import Messages, messages
from layerline.schedules.plan import Carries, Plan
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.work import Work
from schedules.plans import plans


@dataclass(frozen=True)
class Compute:
    """Carry out a row."""

    row: int


@dataclass(frozen=True)
class Send:
    """Hand a message to the sender of its link; this does not wait."""

    message: int


@dataclass(frozen=True)
class Receive:
    """Take the next message of its link; it is this one."""

    message: int


def program(plan: Plan, sent: Messages, node: int) -> Iterator[Compute | Send | Receive]:
    """What a node does, in order. Messages are numbers of rows of `sent`."""
    outgoing = np.flatnonzero(sent.sender == node)
    incoming = np.flatnonzero(sent.receiver == node)
    incoming = incoming[np.lexsort((incoming, sent.before[incoming]))]
    rows = np.flatnonzero(plan.node == node)
    leave = np.searchsorted(sent.source[outgoing], rows, side="right")
    arrive = np.searchsorted(sent.before[incoming], rows, side="right")
    gone = come = 0
    for row, out, into in zip(rows.tolist(), leave.tolist(), arrive.tolist(), strict=True):
        yield from (Receive(int(m)) for m in incoming[come:into])
        yield Compute(row)
        yield from (Send(int(m)) for m in outgoing[gone:out])
        gone, come = out, into


class Nodes:
    """The lowered programs as little machines: per node a computer, per link a sender and room for some messages.

    `capacity`: how many; with 0 a sender waits until its message is taken. `patient`: the computer itself waits until
    the link has room, instead of leaving the message to a sender.
    """

    def __init__(self, plan: Plan, sent: Messages, capacity: int, *, patient: bool = False) -> None:
        self.plan, self.sent, self.capacity, self.patient = plan, sent, capacity, patient
        self.left = [deque(program(plan, sent, node)) for node in range(plan.nodes)]
        links = set(zip(sent.sender.tolist(), sent.receiver.tolist(), strict=True))
        self.waiting: dict[tuple[int, int], deque[int]] = {link: deque() for link in links}
        self.links: dict[tuple[int, int], deque[int]] = {link: deque() for link in links}
        self.there: list[set[tuple[int, int]]] = [set() for _ in range(plan.nodes)]  # (source row, carries)
        self.done: set[int] = set()
        self.taken: list[int] = []

    def run(self) -> None:
        """Until nobody can do anything."""
        while any([self._step(node) for node in range(self.plan.nodes)] + [self._send(link) for link in self.links]):
            pass

    def _send(self, link: tuple[int, int]) -> bool:
        """A link's sender puts its next message on the link, if there is room."""
        room = self.waiting[link] and len(self.links[link]) < self.capacity
        if room:
            self.links[link].append(self.waiting[link].popleft())
        return bool(room)

    def _step(self, node: int) -> bool:
        """One action of a node, if it can do it now."""
        if not self.left[node]:
            return False
        match self.left[node][0]:
            case Compute(row):
                self._compute(node, row)
            case Send(message):
                link = node, int(self.sent.receiver[message])
                if self.patient and len(self.links[link]) >= self.capacity:
                    return False
                (self.links if self.patient else self.waiting)[link].append(message)
            case Receive(message):
                link = int(self.sent.sender[message]), node
                queue = self.links[link] or (self.waiting[link] if self.capacity == 0 else None)
                if not queue:
                    return False
                self._take(node, queue.popleft(), message)
        self.left[node].popleft()
        return True

    def _compute(self, node: int, row: int) -> None:
        for source, carries in self.plan.inputs(row):
            if self.plan.node[source] == node:
                assert source in self.done
            else:
                assert (source, int(carries)) in self.there[node]
        self.done.add(row)

    def _take(self, node: int, came: int, expected: int) -> None:
        assert came == expected  # a link keeps the order
        assert int(self.sent.source[came]) in self.done
        self.there[node].add((int(self.sent.source[came]), int(self.sent.carries[came])))
        self.taken.append(came)


@pytest.mark.parametrize("capacity", [0, 1, 3])
@given(made=plans())
@settings(max_examples=120, deadline=None)
def test_lowered_plans_end(made: tuple[BaseSchedule, Work, Plan], capacity: int) -> None:
    plan = made[2]
    sent = messages(plan)
    nodes = Nodes(plan, sent, capacity)
    nodes.run()
    assert not any(nodes.left)
    assert sorted(nodes.done) == list(range(len(plan)))
    assert sorted(nodes.taken) == list(range(len(sent)))
    assert not any(nodes.links.values())
    assert not any(nodes.waiting.values())
    crossing = {
        (source, int(carries), int(plan.node[row]))
        for row in range(len(plan))
        for source, carries in plan.inputs(row)
        if plan.node[source] != plan.node[row]
    }
    found = list(zip(sent.source.tolist(), sent.carries.tolist(), sent.receiver.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == crossing


def test_computing_that_waits_for_its_sends_would_never_end() -> None:
    """Why every link has a sender: two nodes that average exchange all states of a chapter, and neither takes yet."""
    plan = Federated(average=True).plan(Work(blocks=4, chapters=2, nodes=2))
    nodes = Nodes(plan, messages(plan), 1, patient=True)
    nodes.run()
    assert all(nodes.left)


def test_receiving_in_the_order_of_need_would_never_end() -> None:
    """Why a message is received before a later one of its link: here block 1 is sent first, and needed last."""
    plan = SingleLayer(hand_over="activations").plan(Work(blocks=2, chapters=4, nodes=2, judged=True))
    sent = messages(plan)
    early = [(int(s), Carries(c).name) for s, c in zip(sent.source, sent.carries, strict=True) if plan.stage[s] == 0]
    assert early[:2] == [(0, "WEIGHTS"), (1, "OUTPUTS")]
    assert int(sent.needed[0]) > int(sent.needed[1])
    assert int(sent.before[0]) <= int(sent.before[1])


def test_a_message_is_sent_once_however_many_rows_use_it() -> None:
    """Block 1 of a chapter goes to node 2 once, where a forward pass and the ranking use it."""
    plan = SingleLayer().plan(Work(blocks=2, chapters=6, nodes=2, judged=True))
    sent = messages(plan)
    weights = [int(s) for s, c in zip(sent.source, sent.carries, strict=True) if c == Carries.WEIGHTS]
    assert len(weights) == len(set(weights)) == 6
