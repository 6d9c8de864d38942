"""A worker: carries out the rows of its logical nodes, in the plan's order.

Problem: one process with all logical nodes, and any number of processes with some each, must end with the same bits,
and a worker that starts again must go on from the finished slots. Solution: nothing but the plan decides what a row
starts from. A row's result (a block as its readers get it, stored outputs, labels) is kept under the row's number until
no row that is still to do needs it; where it comes from (made here, on disk, received) makes no difference.

A node's model holds the latest version of every block it trained or was given. A result is copied only where another
node, or a later row, needs it after the model has moved on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from layerline.events import EpochDone, Event, RowBegins, RowDone
from layerline.runtime.needs import Needs, readers
from layerline.runtime.node import Node
from layerline.runtime.slots import Slots
from layerline.schedules.plan import Action, Carries, Plan

Result = dict[str, Tensor]


class Worker:
    """The rows of `nodes` (this process's logical nodes by number), their results in `slots`.

    `send_moments`: Adam's moments travel with a block; else every node keeps its own. `receive(row, what, node)`
    waits for a result made in another process; `send(row, result)` is handed every result, after it is durable.
    `sitting`: how often the run was started before.
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Mapping[int, Node],
        slots: Slots,
        *,
        send_moments: bool = True,
        sitting: int = 0,
        receive: Callable[[int, Carries, int], Result] | None = None,
        send: Callable[[int, Result], None] | None = None,
    ) -> None:
        self.plan, self.nodes, self.slots = plan, nodes, slots
        self.send_moments, self.sitting = send_moments, sitting
        self._receive, self._send = receive, send
        self._results: dict[int, Result] = {}
        self._holds: dict[tuple[int, int], int] = {}  # node, stage → the row whose version the model holds
        self._whole: dict[tuple[int, int], int] = {}  # the same, if the moments are that row's, too
        self._readers, self._needs = readers(plan), Needs(plan)
        self.done = {row for node in nodes for row in slots.done(node)}
        self._deleted = {row for row in self.done if not slots.has(row)}
        self.todo = self._to_do()
        self._uses = Counter(source for row in self.todo for source, _ in plan.inputs(row))

    # What is to be done --------------------------------------------------------------------------------------------

    def _to_do(self) -> list[int]:
        """My rows without a result; of those that only forward, the ones that somebody still needs."""
        plan, todo = self.plan, set[int]()
        for row in reversed(plan.rows_of(set(self.nodes))):
            if plan.action[row] == Action.FORWARD:
                needed = any(reader in todo for reader in self._readers.get(row, ()))
            else:
                needed = row not in self.done
            if needed:
                todo.add(row)
        return sorted(todo)

    def work(self) -> Iterator[Event]:
        """Do it. Yields after every minibatch, and before and after every row."""
        self._restore_moments()
        for row in self.todo:
            inputs = [(source, carries, self._fetch(row, source, carries)) for source, carries in self.plan.inputs(row)]
            yield RowBegins(row, int(self.plan.node[row]))
            begin = time.time()
            rows: list[dict[str, object]] = []
            for event in self._carry_out(row, inputs):
                if isinstance(event, EpochDone):
                    rows += [asdict(each) for each in event.rows]
                yield event
            self._finish(row, begin, rows)
            yield RowDone(row, int(self.plan.node[row]), begin, time.time())

    # Inputs --------------------------------------------------------------------------------------------------------

    def _fetch(self, row: int, source: int, carries: Carries) -> Result | None:
        """What an edge carries; None where the node's model holds it already."""
        held = {Carries.STATE: self._whole, Carries.WEIGHTS: self._holds}.get(carries)
        place = int(self.plan.node[row]), int(self.plan.stage[source])
        if held and held.get(place) == source and len(self._versions(row, place[1])) == 1:
            return None
        if source not in self._results:
            if source in self.done and int(self.plan.node[source]) in self.nodes:
                self._results[source] = self.slots.load(source)
            else:
                assert self._receive is not None, f"row {row} needs row {source}, which nobody makes"
                self._results[source] = self._receive(source, carries, int(self.plan.node[source]))
        return self._results[source]

    def _restore_moments(self) -> None:
        """Give every block of mine that was trained before the state its last slot here left it in."""
        plan = self.plan
        last: dict[tuple[int, int], int] = {}
        for row in sorted(self.done):
            if plan.action[row] == Action.TRAIN and int(plan.node[row]) in self.nodes:
                last[int(plan.node[row]), int(plan.stage[row])] = row
        needed = {(int(plan.node[r]), int(plan.stage[r])) for r in self.todo if plan.action[r] == Action.TRAIN}
        for (node, stage), row in last.items():
            if (node, stage) in needed:
                self.nodes[node].load_block(stage, [self.slots.load(row)], moments=True)
                self._holds[node, stage] = self._whole[node, stage] = row

    def _take(self, node_number: int, inputs: list[tuple[int, Carries, Result | None]]) -> Tensor | None:
        """Bring blocks and labels of the inputs into the node; returns stored outputs, if they are among them."""
        node, labels, outputs = self.nodes[node_number], [], None
        blocks: dict[tuple[int, Carries], list[tuple[int, Result | None]]] = {}
        for source, carries, result in inputs:
            match carries:
                case Carries.OUTPUTS:
                    assert result is not None
                    outputs = result["outputs"]
                case Carries.LABELS:
                    assert result is not None
                    labels.append(result["labels"])
                case _:
                    blocks.setdefault((int(self.plan.stage[source]), carries), []).append((source, result))
        for (stage, carries), versions in blocks.items():
            found = [result for _, result in versions if result is not None]
            if found:
                assert len(found) == len(versions)
                moments = carries == Carries.STATE and self.send_moments
                node.load_block(stage, found, moments)
                self._holds[node_number, stage] = versions[0][0] if len(versions) == 1 else -1
                self._whole.pop((node_number, stage), None)
        if labels:
            node.negatives_n.copy_(torch.cat(labels))
        return outputs

    # Rows ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, row: int, inputs: list[tuple[int, Carries, Result | None]]) -> Iterator[Event]:
        plan = self.plan
        number, stage, chapter = int(plan.node[row]), int(plan.stage[row]), int(plan.chapter[row])
        node = self.nodes[number]
        outputs = self._take(number, inputs)
        judged = any(carries == Carries.LABELS for _, carries, _ in inputs)
        if stage == 0 and plan.action[row] != Action.NEGATIVES and not judged:
            node.begin_plain_chapter(chapter)
        match Action(plan.action[row]):
            case Action.TRAIN:
                node.inputs = node.features(chapter) if stage == plan.blocks else outputs
                epochs = node.run.epochs_per_chapter
                for epoch in range(chapter * epochs, (chapter + 1) * epochs):
                    yield from node.epoch(stage, epoch)
                node.inputs = None
                self._holds[number, stage] = self._whole[number, stage] = row
                self._results[row] = dict(node.learner_tensors(stage))
            case Action.FORWARD:
                self._results[row] = {"outputs": node.forward(stage, chapter, outputs)}
            case Action.NEGATIVES:
                part = plan.part(row, len(node.data))
                self._results[row] = {"labels": node.negatives(chapter + 1, node.scores(part), part)}

    def _finish(self, row: int, begin: float, rows: list[dict[str, object]]) -> None:
        """Make a result durable, hand it out, and forget what nobody needs any more."""
        plan, result = self.plan, self._results[row]
        durable = bool(plan.action[row] != Action.FORWARD)
        if durable:
            self.slots.save(row, result)
            self.done.add(row)
        facts = {"row": row, "durable": durable, "sitting": self.sitting, "begin": begin, "end": time.time()}
        self.slots.tell(int(plan.node[row]), facts | {"metrics": rows})
        if durable:
            self._delete_old()
        if self._send:
            self._send(row, result)
        for source, _ in plan.inputs(row):
            self._uses[source] -= 1
            if not self._uses[source]:
                self._results.pop(source, None)
        if not self._uses[row] or (plan.action[row] == Action.TRAIN and self._stays(row)):
            del self._results[row]
        elif plan.action[row] == Action.TRAIN:
            self._results[row] = {name: tensor.clone() for name, tensor in result.items()}

    def _delete_old(self) -> None:
        """Results on disk that no row will ask for any more."""
        mine = {row for row in self.done if int(self.plan.node[row]) in self.nodes} - self._deleted
        for row in self._needs.over(mine, self.done):
            self.slots.drop(row)
            self._deleted.add(row)

    def _stays(self, row: int) -> bool:
        """Whether only the node itself needs a trained block, and finds it in its model (or, at worst, on disk)."""
        readers = self._readers.get(row, ())
        stage, node = int(self.plan.stage[row]), self.plan.node[row]
        return all(self.plan.node[reader] == node and self._versions(reader, stage) == [row] for reader in readers)

    def _versions(self, row: int, stage: int) -> list[int]:
        """The trained versions of a stage that a row takes, to average if they are several."""
        plan = self.plan
        sources = [source for source, _ in plan.inputs(row)]
        return [s for s in sources if plan.stage[s] == stage and plan.action[s] == Action.TRAIN]
