"""The server's side of a plan: which node is asked for what, and what has come in.

    slots/node-1.jsonl      what node 1 noted: rows that are noted are done       as in any run over nodes
    flower/parcels/         what rows made for others, until those have used it; finished blocks to the end
    flower/gone.json        rows that the plan goes on without, where a node was lost
    flower/traffic.json     bytes to and from every node

All of it is on disk before a row counts as done, so a server that starts again goes on where it stopped. It reads the
headers of what it passes on, and computes nothing but the finished model.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerline.errors import LayerlineError, MessageRefused
from layerline.events import Row, Standing
from layerline.files import replacing, write_text
from layerline.runtime.flower.mail import Parcel
from layerline.runtime.flower.participant import Answer, Order, lasting
from layerline.runtime.needs import last_slots, to_do
from layerline.runtime.post import FINAL
from layerline.runtime.slots import Slots
from layerline.schedules.plan import Carries, Plan
from layerline.schedules.ready import Ready, Task
from layerline.schedules.without import rest_of, without
from layerline.transport.message import HEADER_BYTES

_NAMES = {carries: carries.name.lower() for carries in Carries}


@dataclass
class Traffic:
    """Bytes of parcels, by node: up to the server, and down from it."""

    up: list[int]
    down: list[int]


@dataclass
class _Node:
    """A node as the server sees it."""

    task: Task | None = None
    heard: dict[int, int] = field(default_factory=dict)
    """Of each holder of the node's data: how many notes came from it."""
    busy: float = 0.0
    latest: Row | None = None


class Conductor:
    """The table of a plan, its results in the run's folder. `sitting`: how often the run was started before."""

    def __init__(self, plan: Plan, slots: Slots, *, sitting: int = 0, differences: bool = False) -> None:
        """`differences`: parcels are for one reader only, as they say what changed since the last."""
        self.slots, self.sitting, self._differences = slots, sitting, differences
        self.folder = slots.folder.parent / "flower"
        self.plan = plan = without(plan, gone) if (gone := self._read_gone()) else plan
        self._lasting = lasting(plan)
        self._told = {fact["row"] for node in range(plan.nodes) for fact in slots.told(node)}
        self._done = [slots.done(node) for node in range(plan.nodes)]
        self._ready = Ready(plan, to_do(plan, set().union(*self._done)))
        self._nodes = [_Node() for _ in range(plan.nodes)]
        self.traffic = self._read_traffic()

    @property
    def finished(self) -> bool:
        """Whether all rows are done."""
        return self._ready.finished

    @property
    def done(self) -> tuple[int, int]:
        """Rows with a lasting result: done, and all."""
        return sum(map(len, self._done)), sum(map(len, self._lasting))

    def order(self, node: int, holder: int) -> Order | None:
        """What a node that has nothing to do is asked for, of this holder of its data; None: it has to wait."""
        state = self._nodes[node]
        assert state.task is None
        state.task = self._ready.next(node)
        if state.task is None:
            return None
        parcels = tuple(self._read(*self._name(message)) for message in state.task.messages)
        self.traffic.down[node] += weight(parcels)
        counts = tuple(len(done) for done in self._done)
        gone = tuple(sorted(self.plan.gone))
        if holder not in state.heard and self._done[node]:
            parcels += tuple(self._own(node))
        return Order(state.task.rows[-1], counts, state.heard.get(holder, 0), gone, parcels)

    def withdraw(self, node: int) -> None:
        """A node's task is lost: it can be given out again."""
        self._nodes[node].task = None

    def leave_out(self, node: int) -> None:
        """The plan goes on without what a node has not done. LayerlineError where it cannot."""
        if self._differences:
            raise LayerlineError(
                f"nobody holds the data of node {node + 1} any more, and others cannot read what was sent to it",
                hint="start its SuperNode again and go on with the run; fp32 and bf16 can go on without it",
            )
        gone = rest_of(self.plan, node, self._done[node])
        self.plan = without(self.plan, gone)
        write_text(self.folder / "gone.json", json.dumps(sorted(self.plan.gone)) + "\n")
        self._ready = Ready(self.plan, to_do(self.plan, set().union(*self._done)))

    def owes(self, node: int) -> bool:
        """Whether a node has something left to do."""
        return self._ready.position(node) < len(self.plan)

    def take(self, node: int, holder: int, answer: Answer) -> list[int]:
        """A node's task is done. Returns its rows. MessageRefused where what it sent is not what it was asked for."""
        state = self._nodes[node]
        assert state.task is not None
        for parcel in answer.parcels:
            frame = parcel.frame(self.plan, f"node {node + 1}")
            if frame.source != node or not 0 <= frame.to <= self.plan.nodes:
                raise MessageRefused(f"node {node + 1} sent {frame.key} as node {frame.source + 1}")
            self._write(frame.key.row, frame.key.carries, frame.to, parcel)
        missing = [row for row in state.task.rows if not self._complete(row)]
        if missing:
            raise MessageRefused(f"node {node + 1} sent no result of {self.plan.name(missing[0])}")
        self.traffic.up[node] += weight(answer.parcels)
        state.heard[holder] = state.heard.get(holder, 0) + len(answer.facts)
        try:
            self._note(node, answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MessageRefused(f"what node {node + 1} notes cannot be read: {error!r}") from None
        self._ready.finish(state.task)
        rows, state.task = list(state.task.rows), None
        self._forget()
        self._write_traffic()
        return rows

    def final(self) -> list[Parcel]:
        """The finished blocks. LayerlineError where there are none, as nobody was left to train them."""
        last = last_slots(self.plan)
        if len({int(self.plan.stage[row]) for row in last}) < self.plan.stages:
            raise LayerlineError("all participants were lost before every block was trained once")
        return [self._read(row, FINAL, self.plan.nodes) for row in last]

    def standings(self) -> dict[int, Standing]:
        """What the nodes are about."""
        return {
            number: Standing(self._ready.position(number), node.task is None, 0.0, node.busy, node.latest)
            for number, node in enumerate(self._nodes)
        }

    def _note(self, node: int, answer: Answer) -> None:
        state = self._nodes[node]
        sent: dict[int, int] = {}
        for parcel in answer.parcels:
            row = parcel.frame(self.plan, "").key.row
            sent[row] = sent.get(row, 0) + parcel.nbytes
        for fact in answer.facts:
            row = fact["row"]
            if row in self._told or int(self.plan.node[row]) != node:
                continue
            transfers = [each for each in fact["transfers"] if each[3] != FINAL]
            known = {"sitting": self.sitting, "bytes": sent.get(row, 0), "transfers": transfers}
            self.slots.tell(node, dict(fact) | known)
            self._told.add(row)
            state.busy += fact["end"] - fact["begin"]
            if fact["durable"]:
                self._done[node].add(row)
            if self.plan.stage[row] == self.plan.stages - 1 and fact["metrics"]:
                state.latest = Row(**fact["metrics"][-1])

    # Parcels -------------------------------------------------------------------------------------------------------

    def _name(self, message: int) -> tuple[int, str, int]:
        sent = self._ready.sent
        return int(sent.source[message]), _NAMES[Carries(sent.carries[message])], int(sent.receiver[message])

    def _complete(self, row: int) -> bool:
        """Whether everything that a row makes for others has come."""
        begin, end = self._ready.sent.source.searchsorted((row, row + 1))
        names = [self._name(message) for message in range(begin, end)]
        names += [(row, FINAL, self.plan.nodes)] if row in last_slots(self.plan) else []
        return all(self._path(*name).exists() or self._other(name[0]) for name in names)

    def _forget(self) -> None:
        """Delete what no row will take any more, here or, should its node be lost, at another holder's."""
        needed = self._needed(range(self.plan.nodes))
        done = set().union(*self._done)
        for path in (self.folder / "parcels").iterdir():
            row, carries = int(path.name[:8]), path.name.split("-")[1]
            if carries != FINAL and row in done and row not in needed:
                path.unlink(missing_ok=True)

    def _needed(self, nodes: Container[int]) -> set[int]:
        """The rows whose blocks are taken by what these nodes still have to do."""
        plan = self.plan
        todo = (row for row in to_do(plan, set().union(*self._done)) if int(plan.node[row]) in nodes)
        return {source for row in todo for source, what in plan.inputs(row) if what in (Carries.STATE, Carries.WEIGHTS)}

    def _path(self, row: int, carries: str, to: int) -> Path:
        return self.folder / "parcels" / f"{row:08d}-{carries}-{to}"

    def _write(self, row: int, carries: str, to: int, parcel: Parcel) -> None:
        with replacing(self._path(row, carries, to)) as beside:
            beside.write_bytes(parcel.header + parcel.body)

    def _read(self, row: int, carries: str, to: int) -> Parcel:
        path = self._path(row, carries, to)
        other = None if path.exists() else self._other(row)
        try:
            data = (other or path).read_bytes()
        except OSError as error:
            raise MessageRefused(f"{path} cannot be read: {error.strerror}", hint="start a new run") from None
        parcel = Parcel(data[:HEADER_BYTES], data[HEADER_BYTES:])
        return parcel.readdressed(self.plan, carries, to) if other else parcel

    def _other(self, row: int) -> Path | None:
        """What a row made for somebody else, where the plan goes on without that one."""
        if self._differences:
            return None
        return next(iter(sorted((self.folder / "parcels").glob(f"{row:08d}-*"))), None)

    def _own(self, node: int) -> list[Parcel]:
        """For whoever takes a node over: what it made for others and will itself go on from."""
        rows = [row for row in sorted(self._needed({node}) & self._done[node]) if self._other(row)]
        return [self._read(row, _NAMES[Carries.STATE], node) for row in rows]

    def _read_gone(self) -> list[int]:
        path = self.folder / "gone.json"
        found: list[int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return found

    def _read_traffic(self) -> Traffic:
        path = self.folder / "traffic.json"
        none = [0] * self.plan.nodes
        try:
            found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return Traffic(list(found["up"]), list(found["down"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Traffic(none, list(none))

    def _write_traffic(self) -> None:
        write_text(self.folder / "traffic.json", json.dumps({"up": self.traffic.up, "down": self.traffic.down}) + "\n")


def weight(parcels: Iterable[Parcel]) -> int:
    """Bytes on the way: a body that several parcels share travels once."""
    bodies = {parcel.name: len(parcel.body) for parcel in parcels}
    return sum(bodies.values()) + sum(len(parcel.header) for parcel in parcels)
