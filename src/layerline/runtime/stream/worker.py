"""A worker of a stream: carries out the rows of its nodes, step after step, in the plan's order.

1. Inputs: what an earlier row here left, or a message from another node, also of the same process.
2. The row itself.
3. Messages to whoever needs its result.

**Marks.** The first node decides when to save, and when to stop. It marks the activations of that step; every node
passes the mark on with its own, and acts on it after its update. So all save after the same step, and nobody waits.

    node 1   step 6   step 7 ■ saves      ■ travels with the activations of step 7
    node 2            step 6   step 7 ■ saves
    node 3                     step 6   step 7 ■ saves

**Stopping.** After a mark that says so a node takes what the next one still sends it, leave to go on: so nobody sends
to a process that has gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch

from layerline.errors import Stopped
from layerline.events import EpochDone, Event, Minibatch, Row
from layerline.runtime.fitting import reading
from layerline.runtime.stop import Stop
from layerline.runtime.stream.doing import Doing
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.patience import Patience
from layerline.runtime.stream.recording import recorded_steps
from layerline.runtime.stream.rows import PatternRow, Source, node_of, rows_of
from layerline.runtime.stream.wire import packed_parcel, unpacked_parcel
from layerline.schedules.plan import Action, Carries
from layerline.schedules.stream import Stream
from layerline.transport.base import Transport
from layerline.transport.boundary import Parcel
from layerline.transport.message import Key

GO_ON, SAVE = 0, 1
"""Marks; any other is the exit status to stop with."""
_MARK = "mark"
_LARGE = 100_000
"""Bytes of a message that says how fast a link is."""

Decide = Callable[[], int]
Save = Callable[[int, int], None]
"""Keep a node's state after so many steps."""


@dataclass
class Link:
    """Large messages as they arrived."""

    bytes: int = 0
    seconds: float = 0.0


_TRAVELS = {
    Carries.OUTPUTS: "activations",
    Carries.GRADIENTS: "gradients",
    Carries.TURN: "turn",
    Carries.WEIGHTS: "followed",  # never rounded: the head would be another one
}


class StreamWorker:
    """The rows of `nodes`, this process's logical nodes by number, from step `start` on."""

    def __init__(
        self,
        stream: Stream,
        nodes: Mapping[int, StreamNode],
        feed: Feed,
        transport: Transport,
        *,
        start: int,
        decide: Decide,
        save: Save,
        stop: Stop,
    ) -> None:
        self.stream, self.nodes, self.feed, self.transport = stream, nodes, feed, transport
        self.start, self._decide, self._save = start, decide, save
        self._patience = Patience(stop, lead=min(nodes) * (stream.ahead + 1))
        self._pattern = stream.pattern()
        self._recorded = frozenset(recorded_steps(feed.steps, len(self._pattern)))
        self._rows = [row for row in rows_of(self._pattern) if row.step.node in nodes]
        self._values: dict[int, Parcel] = {}
        self._marks: dict[int, int] = {}
        self._began = time.monotonic()
        self._before = {number: (node.noted.seconds, node.noted.bytes) for number, node in nodes.items()}
        self.link = Link()
        self._step = start
        self.doing = Doing(nodes, lambda node: self._step)

    def work(self) -> Generator[Event]:
        """To the end. Yields after every step; the last of an epoch yields `EpochDone` with the rows of its nodes.

        Stopped, after saving, when the first node was asked to.
        """
        if self.start:
            self._send_again()
        for step in range(self.start, self.feed.steps):
            self._learn(step)
            rows = self._ended(step) if self.feed.ends_epoch(step) else None
            mark = max(self._marks.values())
            self._note(step, saving=mark != GO_ON or step + 1 == self.feed.steps)
            self._step = step + 1
            epoch = self.feed.place(step)[0] + 1
            yield Minibatch(epoch, "all blocks") if rows is None else EpochDone(epoch, rows)
            if mark > SAVE:
                self._take_turns(step)
                raise Stopped("training was stopped", exit_status=mark)
            self._patience.heed()
        for row, source in self._followed():
            self._follow(row, source, self.feed.steps - 1)

    def _learn(self, step: int) -> None:
        """All rows of a step."""
        parts = len(self.feed.parts(step))
        self._marks = {node: self._decide() if node == 0 else GO_ON for node in self.nodes}
        for row in self._rows:
            if row.step.action != Action.UPDATE and self._microbatch(row) >= parts:
                self._pass_leave(row, step)  # the last minibatch of an epoch may be too small for all
                continue
            value = self._input(row, step)  # 1
            self.doing.begins(node_of(row), row.step.action, row.step.stage)
            begin = time.perf_counter()
            result = self._carry_out(row, step, value)  # 2
            if row.kept and result is not None:
                self._values[row.number] = result
            self._send(row, step, result)  # 3
            seconds, noted = time.perf_counter() - begin, self.nodes[node_of(row)].noted
            noted.busy[row.number] = noted.busy.get(row.number, 0.0) + seconds
            self.doing.ends(node_of(row))
            if step in self._recorded:
                now = time.time()  # which may be set while a row is carried out
                noted.recording.rows.append((noted.recording.sitting, step, row.number, now - seconds, now))

    def _microbatch(self, row: PatternRow) -> int:
        shard = row.step.shard
        assert isinstance(shard, int)
        return shard % self.stream.microbatches

    def _input(self, row: PatternRow, step: int) -> Parcel | None:
        """Activations or a gradient for the row; whatever else it has to wait for has come, too."""
        found = None
        for source in row.sources:
            if source.node is None:
                found = self._values.pop(source.row)
            elif source.carries == Carries.WEIGHTS:
                if step:
                    self._follow(row, source, step - 1)
            elif step - source.ago >= self.start:
                tensors = self._receive(source, node_of(row), step - source.ago)
                if _MARK in tensors:
                    with reading("a mark"):
                        self._marks[node_of(row)] = int(tensors.pop(_MARK).item())
                if source.carries != Carries.TURN:
                    found = unpacked_parcel(tensors)
        return found

    def _carry_out(self, row: PatternRow, step: int, value: Parcel | None) -> Parcel | None:
        node, block, part = self.nodes[node_of(row)], row.step.stage, self._microbatch(row)
        match row.step.action:
            case Action.FORWARD:
                return node.forward(block, step, part, value)
            case Action.BACKWARD:
                assert isinstance(row.step.shard, int)
                loss = block + row.step.shard // self.stream.microbatches
                return node.backward(block, loss, step, part, value)
            case _:
                node.update(block, step)
                return None

    def _send(self, row: PatternRow, step: int, result: Parcel | None) -> None:
        for carries, to, later in row.sends:
            if carries == Carries.TURN:
                self._give_leave(row, step, to, later)
                continue
            if carries == Carries.WEIGHTS:
                self._send_followed(row, step, to)
                continue
            tensors = packed_parcel(result or {})
            if carries == Carries.OUTPUTS and self._microbatch(row) == 0:
                tensors[_MARK] = torch.tensor([self._marks[node_of(row)]], dtype=torch.uint8)
            self.transport.at(node_of(row)).send(self._key(row.number, carries, step), tensors, to)

    def _give_leave(self, row: PatternRow, step: int, to: int, later: int) -> None:
        if step + later < self.feed.steps:
            self.transport.at(node_of(row)).send(self._key(row.number, Carries.TURN, step), {}, to)

    def _pass_leave(self, row: PatternRow, step: int) -> None:
        """A microbatch without examples counts all the same, so that every leave that is waited for is given."""
        for source in row.sources:
            if source.carries == Carries.TURN and step - source.ago >= self.start:
                self._receive(source, node_of(row), step - source.ago)
        for carries, to, later in row.sends:
            if carries == Carries.TURN:
                self._give_leave(row, step, to, later)

    # Heads made of the weights of blocks elsewhere -----------------------------------------------------------------

    def _followed(self) -> list[tuple[PatternRow, Source]]:
        """Rows that take such weights, and where from."""
        weights = Carries.WEIGHTS
        return [(row, each) for row in self._rows for each in row.sources if each.carries == weights]

    def _send_followed(self, row: PatternRow, step: int, to: int) -> None:
        tensors = packed_parcel(self.nodes[node_of(row)].watched(row.step.stage))
        self.transport.at(node_of(row)).send(self._key(row.number, Carries.WEIGHTS, step), tensors, to)

    def _send_again(self) -> None:
        """A node saves itself before it has what came of the others' last update, so that is sent once more."""
        for row in self._rows:
            for carries, to, _ in row.sends:
                if carries == Carries.WEIGHTS:
                    self._send_followed(row, self.start - 1, to)

    def _follow(self, row: PatternRow, source: Source, step: int) -> None:
        """Weights as they were after a step arrive, and the heads of the node follow them."""
        tensors = unpacked_parcel(self._receive(source, node_of(row), step))
        self.nodes[node_of(row)].follow(self._pattern[source.row].stage, tensors)

    def _receive(self, source: Source, node: int, step: int) -> Parcel:
        assert source.node is not None
        self.doing.waits(node, source.node)
        return self.transport.at(node).receive(self._key(source.row, source.carries, step), source.node)

    def _key(self, row: int, carries: Carries, step: int) -> Key:
        return Key(step * len(self._pattern) + row, _TRAVELS[carries], self._pattern[row].stage, step)

    # Between two steps ---------------------------------------------------------------------------------------------

    def _ended(self, step: int) -> list[Row]:
        """The numbers of an epoch, of the nodes here."""
        return [row for node in self.nodes.values() for row in node.end_epoch(step)]

    def _note(self, step: int, *, saving: bool) -> None:
        """What the transport counted; and the nodes' states, where they are due."""
        for number, node in self.nodes.items():
            end = self.transport.at(number)
            for event in [end.events.pop(0) for _ in range(len(end.events))]:  # others may come meanwhile
                if event.direction == "receive" and event.nbytes >= _LARGE:
                    self.link.bytes += event.nbytes
                    self.link.seconds += event.end - event.begin
                if event.key.chapter in self._recorded:
                    node.noted.recording.add_message(event.key.row % len(self._pattern), event)
            seconds, sent = self._before[number]
            node.noted.seconds = seconds + time.monotonic() - self._began
            node.noted.bytes = sent + sum(end.bytes_sent.values())
            if saving:
                begin = time.monotonic()
                node.note_crossed()
                self._save(number, step + 1)
                self._began += time.monotonic() - begin  # which is no training

    def _take_turns(self, step: int) -> None:
        """What the next node still sends: leave to go on with steps that are not done now, and weights."""
        for row, source in self._followed():
            self._receive(source, node_of(row), step)
        for row in self._rows:
            for source in row.sources:
                if source.node is not None and source.carries == Carries.TURN:
                    for then in range(max(self.start, step + 1 - source.ago), step + 1):
                        if then + source.ago < self.feed.steps:
                            self._receive(source, node_of(row), then)
