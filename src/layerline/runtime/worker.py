"""A worker: carries out the rows of its logical nodes, in the plan's order.

Problem: one process with all logical nodes, and any number of processes with some each, must end with the same bits,
and a worker that starts again must go on from the finished slots. Solution: nothing but the plan decides what a row
starts from, and whatever comes from another node comes as a message, also within a process.

0. Not too far ahead: nodes that read from this one are where the window wants them (`schedules/window.py`).
1. Inputs: what the node's model holds already, what an earlier row here made, or a message.
2. The row itself.
3. Messages to whoever needs its result; then, beside the next row, the result to disk and a note that it is done.

A node's model holds the latest version of every block it trained or was given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from layerline.errors import CheckpointError, PeerLost
from layerline.events import EpochDone, Event, RowBegins, RowDone, RowKept, RowWaits
from layerline.runtime.averaging import ALIKE, Shares
from layerline.runtime.fitting import fit
from layerline.runtime.keeper import Keeper
from layerline.runtime.leaving import Release, released
from layerline.runtime.needs import Needs, to_do
from layerline.runtime.node import Node
from layerline.runtime.post import Post
from layerline.runtime.slots import Slots
from layerline.schedules.lower import messages
from layerline.schedules.plan import Action, Carries, Plan
from layerline.schedules.window import window

_SECONDS_BETWEEN = 0.1
"""Two looks at how far the others are."""

Result = dict[str, Tensor]
Inputs = list[tuple[int, Carries, Result | None]]
Name = tuple[int, Carries | None, int]
"""A result at a node: the row that made it, how it came if it came as a message, the node."""


class Worker:
    """The rows of `nodes` (this process's logical nodes by number), their results in `slots`, messages by `post`.

    `done_elsewhere` says which rows other processes have on disk; `sitting`: how often the run was started before;
    `shares`: how much copies of a block count in their mean. `release`: what of a block may leave its node (None: all).
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Mapping[int, Node],
        slots: Slots,
        post: Post,
        *,
        sitting: int = 0,
        done_elsewhere: Callable[[], set[int]] = set,
        shares: Shares = ALIKE,
        release: Release | None = None,
    ) -> None:
        self.plan, self.nodes, self.slots, self.post = plan, nodes, slots, post
        self.sitting, self._done_elsewhere, self._shares = sitting, done_elsewhere, shares
        self._release = release
        self._kept: dict[Name, Result] = {}  # what rows that are still to do will ask for
        self._holds: dict[tuple[int, int], int] = {}  # node, stage → the row whose version the model holds
        self._whole: dict[tuple[int, int], int] = {}  # the same, if the moments are that row's, too
        self._needs = Needs(plan, differences=not post.transport.codec.lossless)
        self._keeper = Keeper(slots)
        self.done = {row for node in nodes for row in slots.done(node)}
        self._deleted = {row for row in self.done if not slots.has(row)}
        self._refuse_missing()
        self._open = to_do(plan, self.done | done_elsewhere())
        self.todo = sorted(row for row in self._open if int(plan.node[row]) in nodes)
        self._window: dict[int, list[int]] = {}
        edges = window(plan, messages(plan))
        for row, after in zip(edges.row.tolist(), edges.after.tolist(), strict=True):
            if int(plan.node[after]) not in nodes:
                self._window.setdefault(row, []).append(after)
        self._uses = Counter(self._name(row, source, what) for row in self.todo for source, what in plan.inputs(row))

    def _refuse_missing(self) -> None:
        """CheckpointError where a result is gone that somebody may still ask for."""
        gone = self._deleted - self._needs.over(self._deleted, self.done | self._done_elsewhere())
        if gone:
            raise CheckpointError(
                f"{self.slots.folder} has no result of {self.plan.name(min(gone))}, which is still needed",
                hint="results lie where they were made: go on on the same machines, or start a new run",
            )

    def work(self) -> Generator[Event]:
        """Do it. Yields after every minibatch, and as every row waits for its inputs, begins and is done."""
        self._restore()
        self.post.again(sorted(self.done - self._deleted), self._open, self.slots.load)
        try:
            for row in self.todo:
                node = int(self.plan.node[row])
                yield RowWaits(row, node)
                yield from self._let_catch_up(row, node)  # 0
                if self._must_wait(row):
                    yield from self._note_all()
                inputs = [(source, what, self._fetch(row, source, what)) for source, what in self.plan.inputs(row)]  # 1
                yield RowBegins(row, node)
                begin = time.time()
                metrics: list[dict[str, Any]] = []
                for event in self._carry_out(row, inputs):  # 2
                    if isinstance(event, EpochDone):
                        metrics += [asdict(each) for each in event.rows]
                    yield event
                self._finish(row, begin, metrics)  # 3
                yield RowDone(row, node, begin, time.time())
                yield from self._noted()
            yield from self._note_all()
        finally:
            self._keeper.close()

    def settle(self) -> None:
        """Between two events of `work`: wait until all that was done is on disk. LayerlineError where that is full."""
        self._keeper.settle(everything=True)
        for _ in self._noted():
            pass

    def _let_catch_up(self, row: int, node: int) -> Iterator[Event]:
        """Wait until those that read from this node have done what they should. PeerLost where they are gone."""
        after, until = self._window.get(row), time.monotonic() + self.post.transport.timeout
        while after and (behind := sorted(set(after) - self._done_elsewhere())):
            yield from self._note_all()
            for each in behind:
                self.post.check(each, node)
            if time.monotonic() > until:
                raise PeerLost(f"node {node + 1} waits for {self.plan.name(behind[0])}, which takes too long")
            time.sleep(_SECONDS_BETWEEN)
            yield RowWaits(row, node)

    def _note_all(self) -> Iterator[Event]:
        """Before this process waits: others may wait for what it has done, so that has to be known."""
        self._keeper.settle(everything=True)
        yield from self._noted()

    def _noted(self) -> Iterator[Event]:
        """What has come to disk: it is done, and what only it needed can go."""
        settled, self._keeper.settled = self._keeper.settled, []
        if settled:
            self.done |= set(settled)
            self._delete_old()
        for row in settled:
            yield RowKept(row, int(self.plan.node[row]))

    # Inputs --------------------------------------------------------------------------------------------------------

    def _name(self, row: int, source: int, what: Carries) -> Name:
        """Under which name a result is kept for a row: one of its own node's, or a message to it."""
        node = int(self.plan.node[row])
        return (source, None, node) if int(self.plan.node[source]) == node else (source, what, node)

    def _fetch(self, row: int, source: int, what: Carries) -> Result | None:
        """What an edge carries; None where the node's model holds it already."""
        name = self._name(row, source, what)
        place = name[2], int(self.plan.stage[source])
        held = {Carries.STATE: self._whole, Carries.WEIGHTS: self._holds}.get(what)
        if held and held.get(place) == source and len(self._versions(row, place[1])) == 1:
            return None
        if name not in self._kept:
            if name[1] is None:
                self._keeper.settle(place)
                self._kept[name] = self.slots.load(source)
            else:
                self._kept[name] = self.post.receive(source, what, name[2])
        return self._kept[name]

    def _must_wait(self, row: int) -> bool:
        """Whether a message that a row needs is still to come."""
        for source, what in self.plan.inputs(row):
            name = self._name(row, source, what)
            if name[1] is not None and name not in self._kept and not self.post.arrived(source, what, name[2]):
                return True
        return False

    def _restore(self) -> None:
        """Give every block of mine that was trained before the state its last slot here left it in."""
        plan = self.plan
        last: dict[tuple[int, int], int] = {}
        for row in sorted(self.done):
            if plan.action[row] == Action.TRAIN:
                last[int(plan.node[row]), int(plan.stage[row])] = row
        needed = {(int(plan.node[r]), int(plan.stage[r])) for r in self.todo if plan.action[r] == Action.TRAIN}
        for (node, stage), row in last.items():
            if (node, stage) in needed:
                self.nodes[node].load_block(stage, [self.slots.load(row)], moments=True)
                self._holds[node, stage] = self._whole[node, stage] = row

    def _take(self, number: int, inputs: Inputs) -> Tensor | None:
        """Bring blocks and labels of the inputs into a node; returns stored outputs, if they are among them."""
        node, labels, outputs = self.nodes[number], list[Result](), None
        blocks: dict[tuple[int, Carries], list[tuple[int, Result | None]]] = {}
        for source, what, result in inputs:
            match what:
                case Carries.OUTPUTS:
                    assert result is not None
                    fit("stored outputs as they came", result, {"outputs": None})
                    outputs = result["outputs"]
                case Carries.LABELS:
                    assert result is not None
                    labels.append(result)
                case _:
                    blocks.setdefault((int(self.plan.stage[source]), what), []).append((source, result))
        for (stage, what), versions in blocks.items():
            found = [result for _, result in versions if result is not None]
            if found:
                assert len(found) == len(versions)
                moments = what == Carries.STATE and self.post.moments
                self._keeper.settle((number, stage))
                counts = self._shares.among(self.plan, [row for row, _ in versions])
                node.load_block(stage, found, moments, counts)
                self._holds[number, stage] = versions[0][0] if len(versions) == 1 else -1
                self._whole.pop((number, stage), None)
        if labels:
            node.take_labels(labels)
        return outputs

    # Rows ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, row: int, inputs: Inputs) -> Iterator[Event]:
        plan = self.plan
        number, stage, chapter = int(plan.node[row]), int(plan.stage[row]), int(plan.chapter[row])
        node = self.nodes[number]
        outputs = self._take(number, inputs)
        judged = any(what == Carries.LABELS for _, what, _ in inputs)
        if stage == 0 and plan.action[row] != Action.NEGATIVES and not judged:
            node.begin_plain_chapter(chapter)
        match Action(plan.action[row]):
            case Action.TRAIN:
                self._keeper.settle((number, stage))
                node.inputs = node.features(chapter) if stage == plan.blocks else outputs
                epochs = node.run.epochs_per_chapter
                with released(node, stage, self._release):
                    for epoch in range(chapter * epochs, (chapter + 1) * epochs):
                        yield from node.epoch(stage, epoch)
                node.inputs = None
                self._holds[number, stage] = self._whole[number, stage] = row
                self._kept[row, None, number] = node.learner_tensors(stage)
            case Action.FORWARD:
                self._kept[row, None, number] = {"outputs": node.forward(stage, chapter, outputs)}
            case Action.NEGATIVES:
                part = plan.part(row, len(node.data))
                labels = node.negatives(chapter + 1, node.scores(part), part)
                self._kept[row, None, number] = {"labels": labels}

    def _finish(self, row: int, begin: float, metrics: list[dict[str, Any]]) -> None:
        """Hand a result out, make it durable, and forget what nobody needs any more."""
        plan, node = self.plan, int(self.plan.node[row])
        end, result = time.time(), self._kept[row, None, node]
        durable = bool(plan.action[row] != Action.FORWARD)
        kept = self.post.send(row, result)
        facts: dict[str, Any] = {"row": row, "durable": durable, "sitting": self.sitting, "begin": begin, "end": end}
        facts |= {"handed": time.time(), "bytes": self.post.new_bytes(node), "transfers": self.post.transfers(node)}
        facts |= {"metrics": metrics}
        self._keeper.keep(row, (node, int(plan.stage[row])), kept if durable else None, facts)
        self._keeper.settle()
        for source, what in plan.inputs(row):
            name = self._name(row, source, what)
            self._uses[name] -= 1
            if not self._uses[name]:
                self._kept.pop(name, None)
        if not self._uses[row, None, node] or (plan.action[row] == Action.TRAIN and self._stays(row)):
            del self._kept[row, None, node]
        elif plan.action[row] == Action.TRAIN:
            self._kept[row, None, node] = {name: tensor.clone() for name, tensor in result.items()}

    def _delete_old(self) -> None:
        """Results on disk that no row will ask for any more."""
        done = self.done | self._done_elsewhere()
        for row in self._needs.over(self.done - self._deleted, done):
            self.slots.drop(row)
            self._deleted.add(row)

    def _stays(self, row: int) -> bool:
        """Whether the node finds a block it trained in its model (or, at worst, on disk) whenever it needs it."""
        node, stage = self.plan.node[row], int(self.plan.stage[row])
        readers = [reader for reader in self._needs.readers.get(row, ()) if self.plan.node[reader] == node]
        return all(self._versions(reader, stage) == [row] for reader in readers)

    def _versions(self, row: int, stage: int) -> list[int]:
        """The trained versions of a stage that a row takes, to average if they are several."""
        plan = self.plan
        sources = [source for source, _ in plan.inputs(row)]
        return [s for s in sources if plan.stage[s] == stage and plan.action[s] == Action.TRAIN]
