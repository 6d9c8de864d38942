"""A worker of a plan whose nodes exchange after every minibatch.

Like `Worker` it carries out the rows of its nodes in the plan's order, and what crosses from node to node is a message,
also within a process: any number of processes gives the same bits. What differs: a row is a minibatch, so its result
stays in the node's model and in memory, and what is on disk is the state of the nodes at the plan's snapshots
(`snapshots.py`).

1. At a snapshot: the state of every node to disk.
2. Inputs: what the node's model holds already, or messages; the states of several replicas are averaged in order.
3. The row itself, then messages to whoever needs its result.
4. At the end: the finished blocks to disk, as slots of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from layerline.errors import CheckpointError
from layerline.events import Event, Minibatch, RowBegins, RowDone, RowKept, RowWaits
from layerline.runtime.averaging import ALIKE, Shares
from layerline.runtime.minibatches import MinibatchNode
from layerline.runtime.needs import last_slots
from layerline.runtime.post import Post
from layerline.runtime.slots import Slots
from layerline.runtime.snapshots import Snapshots
from layerline.schedules.plan import Action, Carries, Plan

Result = dict[str, Tensor]
_LABELS = "labels."


@dataclass
class _Spent:
    """What a node has done since it last noted something."""

    begin: float = 0.0
    busy: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[tuple[int, int], tuple[int, float]] = field(default_factory=dict)
    """By action and stage: rows, seconds."""

    def add(self, action: int, stage: int, begin: float, end: float) -> None:
        self.begin = self.begin or begin
        self.busy += end - begin
        rows, seconds = self.seconds.get((action, stage), (0, 0.0))
        self.seconds[action, stage] = rows + 1, seconds + end - begin


class RoundWorker:
    """The rows of `nodes` (this process's logical nodes by number); states and finished blocks in `slots`.

    `snapshot`: the row they all go on from. `kept_elsewhere`: the last row that a node of another process has kept
    something under. `sitting`: how often the run was started before.
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Mapping[int, MinibatchNode],
        slots: Slots,
        post: Post,
        snapshots: Snapshots,
        snapshot: int,
        *,
        sitting: int = 0,
        kept_elsewhere: Callable[[int], int] = lambda node: -1,
        shares: Shares = ALIKE,
    ) -> None:
        self.plan, self.nodes, self.slots, self.post = plan, nodes, slots, post
        self.snapshots, self.snapshot = snapshots, snapshot
        self.sitting, self._kept_elsewhere, self._shares = sitting, kept_elsewhere, shares
        self._holds: dict[tuple[int, int], int] = {}  # node, stage → the row whose version the model holds
        self._outputs: dict[int, tuple[int, Tensor]] = {}  # node → the latest minibatch it forwarded: row, outputs
        self._made: dict[int, tuple[int, Tensor]] = {}  # node → the latest labels it made
        self._labelled: dict[int, list[int]] = {}  # node → the rows whose labels it learns with
        self._last = {node: snapshots.state(node, snapshot) for node in nodes}  # its last row
        self._noted = dict(self._last)  # the last row that it kept something under
        self._states = {node: sorted(row for row in slots.done(node) if slots.has(row)) for node in nodes}
        self._spent = {node: _Spent() for node in nodes}
        self._epochs = {node: _last_of_epochs(plan, node, self._minibatches) for node in nodes}

    @property
    def _minibatches(self) -> int:
        """Of an epoch."""
        return next(iter(self.nodes.values())).batches

    def work(self) -> Generator[Event]:
        """Do it. Yields after every minibatch, and as every row waits for its inputs, begins and is done."""
        self._restore()
        ahead = [snapshot for snapshot in self.snapshots.rows if snapshot > self.snapshot]
        for row in sorted(row for node in self.nodes for row in self.snapshots.rows_of(node, self.snapshot)):
            while ahead and row >= ahead[0]:
                ahead.pop(0)
                if not ahead or row < ahead[0]:
                    yield from self._keep_states()  # 1
            node = int(self.plan.node[row])
            yield RowWaits(row, node)
            outputs = self._take(row, node)  # 2
            yield RowBegins(row, node)
            begin = time.time()
            yield from self._carry_out(row, node, outputs)  # 3
            end = time.time()
            self.post.transfers(node)  # nobody asks for so many
            self._spent[node].add(int(self.plan.action[row]), int(self.plan.stage[row]), begin, end)
            self._last[node] = row
            yield RowDone(row, node, begin, end)
        yield from self._keep_finished()  # 4

    # Between two sittings -------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Bring every node to the snapshot, and send again what others still need from before it."""
        plan = self.plan
        if self.snapshot == len(plan):
            for row in self._finished():
                self.post.once_more(row, self.slots.load(row), range(0))
            return
        for number, node in self.nodes.items():
            row = self.snapshots.state(number, self.snapshot)
            if row >= 0:
                tensors = self.slots.load(row)
                try:
                    node.restore({name: each for name, each in tensors.items() if not name.startswith(_LABELS)})
                except (KeyError, RuntimeError) as error:
                    raise CheckpointError(f"the state of node {number + 1} does not fit this run: {error}") from None
                for name, labels in tensors.items():
                    if name.startswith(_LABELS):
                        self._made[number] = int(name.removeprefix(_LABELS)), labels.to(node.negatives_n.device)
        trained = np.flatnonzero(plan.action[: self.snapshot] == Action.TRAIN)[::-1]
        _, last = np.unique(plan.node[trained] * plan.stages + plan.stage[trained], return_index=True)
        self._holds = {(int(plan.node[row]), int(plan.stage[row])): row for row in trained[last].tolist()}
        crossing = (plan.source < self.snapshot) & (plan.target >= self.snapshot)
        for row in np.unique(plan.source[crossing]).tolist():
            if int(plan.node[row]) in self.nodes:
                self.post.once_more(row, self._result(row), range(self.snapshot, len(plan)))

    def _keep_states(self) -> Iterator[Event]:
        """Every node that has done something since it last kept its state."""
        for number, node in self.nodes.items():
            row = self._last[number]
            if row > self._noted[number]:
                made = {f"{_LABELS}{r}": labels for r, labels in [self._made[number]]} if number in self._made else {}
                end = time.time()
                self.slots.save(row, node.snapshot() | made)
                yield self._kept(row, number, end)
        everywhere = range(self.plan.nodes)
        kept = {n: self._noted[n] if n in self.nodes else self._kept_elsewhere(n) for n in everywhere}
        reached = self.snapshots.reached(kept)
        for number in self.nodes:
            self._drop_before(number, self.snapshots.state(number, reached))

    def _drop_before(self, node: int, row: int) -> None:
        """States that no node will go back to."""
        for old in self._states[node]:
            if old < row:
                self.slots.drop(old)
        self._states[node] = [old for old in self._states[node] if old >= row]

    def _keep_finished(self) -> Iterator[Event]:
        """The finished blocks; and what nodes that have none of them have done since they last noted something."""
        if self.snapshot == len(self.plan):
            return
        for row in self._finished():
            self.slots.save(row, self._result(row))
            yield self._kept(row, int(self.plan.node[row]), time.time())
        for node in self.nodes:
            if self._last[node] > self._noted[node]:
                self._note(self._last[node], node, time.time(), durable=False)

    def _finished(self) -> list[int]:
        return sorted(row for row in last_slots(self.plan) if int(self.plan.node[row]) in self.nodes)

    def _kept(self, row: int, node: int, end: float) -> Event:
        """Something of a node is on disk under a row."""
        self._note(row, node, end, durable=True)
        self._noted[node] = row
        self._states[node].append(row)
        return RowKept(row, node)

    def _note(self, row: int, node: int, end: float, *, durable: bool) -> None:
        """What a node did since it last noted something, up to a row."""
        spent, self._spent[node] = self._spent[node], _Spent()
        facts: dict[str, Any] = {"row": row, "durable": durable, "sitting": self.sitting}
        facts |= {"begin": spent.begin or end, "end": end, "handed": time.time(), "busy": spent.busy}
        facts |= {"spent": [[*what, *numbers] for what, numbers in spent.seconds.items()]}
        facts |= {"bytes": self.post.new_bytes(node), "transfers": [], "metrics": spent.metrics}
        self.slots.tell(node, facts)

    # Rows -----------------------------------------------------------------------------------------------------------

    def _result(self, row: int) -> Result:
        """What a row left in its node, which is there until the node's next round."""
        node, stage = int(self.plan.node[row]), int(self.plan.stage[row])
        if self.plan.action[row] == Action.NEGATIVES:
            made, labels = self._made[node]
            assert made == row
            return {"labels": labels}
        assert self._holds[node, stage] == row
        return self.nodes[node].learner_tensors(stage)

    def _take(self, row: int, number: int) -> Tensor | None:
        """Bring the inputs of a row into its node; returns the outputs it learns from, if there are any."""
        plan, node, stage = self.plan, self.nodes[number], int(self.plan.stage[row])
        inputs, outputs, labels = plan.inputs(row), None, list[int]()
        states: list[int] = []
        for source, what in inputs:
            match what:
                case Carries.STATE:
                    states.append(source)
                case Carries.LABELS:
                    labels.append(source)
                case Carries.OUTPUTS:
                    made, outputs = self._outputs[number]
                    assert made == source
                case Carries.WEIGHTS:  # of its own round, which one node carries out
                    assert self._holds[number, int(plan.stage[source])] == source
        if states and states != [self._holds.get((number, stage))]:
            versions = [self._fetch(source, Carries.STATE, number) for source in states]
            node.load_block(stage, versions, self.post.moments, self._shares.among(plan, states))
        if labels and labels != self._labelled.get(number):
            node.take_labels([self._fetch(source, Carries.LABELS, number) for source in labels])
            self._labelled[number] = labels
        if stage == 0 and plan.action[row] != Action.NEGATIVES and not labels:
            node.begin_plain_chapter(int(plan.round[row]) // plan.rounds_per_chapter)
        return outputs

    def _fetch(self, source: int, what: Carries, number: int) -> Result:
        """A result of the node itself, or a message."""
        if int(self.plan.node[source]) == number:
            return self._result(source)
        return self.post.receive(source, what, number)

    def _carry_out(self, row: int, number: int, outputs: Tensor | None) -> Iterator[Event]:
        plan, node, stage = self.plan, self.nodes[number], int(self.plan.stage[row])
        epoch, batch = divmod(int(plan.round[row]), self._minibatches)
        match Action(plan.action[row]):
            case Action.TRAIN:
                node.learn(stage, epoch, batch, outputs)
                self._holds[number, stage] = row
                self.post.send(row, self._result(row))
                if int(plan.round[row]) in self._epochs[number]:
                    done = node.finish_epoch(stage, epoch)
                    self._spent[number].metrics += [asdict(each) for each in done.rows]
                    yield done
                else:
                    yield Minibatch(epoch + 1, f"block {stage + 1}" if stage < plan.blocks else "head")
            case Action.FORWARD:
                self._outputs[number] = row, node.forward_batch(stage, epoch, batch, outputs)
            case Action.NEGATIVES:
                chapter = int(plan.round[row]) // plan.rounds_per_chapter
                self._made[number] = row, node.negatives(chapter + 1, node.scores())
                self.post.send(row, self._result(row))


def _last_of_epochs(plan: Plan, node: int, minibatches: int) -> set[int]:
    """A node's last round of every epoch."""
    rounds = np.unique(plan.round[plan.node == node])
    return set(rounds[np.append(np.diff(rounds // minibatches) != 0, True)].tolist())
